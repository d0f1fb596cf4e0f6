"""Runs over each other: what may be laid together, the figures, and a page made of the logs alone."""

from __future__ import annotations

import json
import statistics

import pytest

from swav_bench import curves
from swav_spec.errors import InvalidInput

KNN = {"torch": (0.70, 0.72, 0.74), "jax": (0.71, 0.72, 0.75)}


def make_run(folder, framework, seed, knn, **settings):
    """A folder as `swav-bench train` leaves it, of a run that has ended."""
    path = folder / f"{framework}-{seed}"
    path.mkdir(parents=True)
    asked = {"framework": framework, "seed": seed, "data": "some/where/textures", "recipe": "textures"}
    asked |= {"precision": "float32", "device": "cpu"} | settings
    (path / "config.json").write_text(json.dumps({"settings": asked, "changes": {"batch": 64}}))
    lines = [
        {"step": step, "epoch": step / 10, "loss": 3.4 - step / 50, "knn_top1": knn - 0.1 if step == 10 else None}
        for step in range(1, 31)
    ]
    (path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures = {"knn_top1": knn, "linear_top1": knn + 0.1}
    accuracy = {
        "split": "test",
        "learnt": figures,
        "raw_pixels": {"knn_top1": 0.38},
        "random_weights": {"knn_top1": 0.25},
    }
    summary = {"final_loss": 2.8, "ln_k": 3.4, "accuracy": accuracy}
    (path / "summary.json").write_text(json.dumps(summary))
    return path


@pytest.fixture
def folder(tmp_path):
    for framework, accuracies in KNN.items():
        for seed, knn in enumerate(accuracies):
            make_run(tmp_path, framework, seed, knn)
    return tmp_path


def test_frameworks_are_held_against_the_spread_of_their_seeds(folder):
    found = curves.write(folder)
    torch, jax = found["frameworks"]
    assert (torch["framework"], torch["runs"], torch["seeds"]) == ("torch", 3, [0, 1, 2])
    assert torch["knn_top1"]["mean"] == statistics.fmean(KNN["torch"])
    assert jax["knn_top1"]["std"] == statistics.stdev(KNN["jax"])
    (pair,) = found["pairs"]
    assert pair["seeds_std"] == statistics.stdev(KNN["jax"])
    assert pair["within"] is True
    page = (folder / "curves.md").read_text(encoding="utf-8")
    assert "within one standard deviation" in page
    assert "72.00 ± 2.00 (70.00 to 74.00)" in page
    assert "some/where" not in page


def test_a_difference_beyond_the_spread_is_told(tmp_path):
    for seed in range(3):
        make_run(tmp_path, "torch", seed, 0.70 + seed / 100)
        make_run(tmp_path, "tensorflow", seed, 0.60 + seed / 100)
    found = curves.write(tmp_path)
    assert found["pairs"][0]["within"] is False
    assert "differs by 10 points, beyond one standard deviation over seeds (1.0)" in found["sentences"][0]


def test_one_seed_claims_nothing(tmp_path):
    make_run(tmp_path, "torch", 0, 0.7)
    make_run(tmp_path, "jax", 0, 0.7)
    found = curves.write(tmp_path)
    assert found["pairs"][0]["within"] is None
    assert "no spread" in found["sentences"][0]


def test_the_page_follows_from_the_logs_alone(folder):
    curves.write(folder)
    made = {name: (folder / name).read_bytes() for name in (curves.MARKDOWN, curves.JSON, curves.PNG, curves.SVG)}
    curves.write(folder)
    assert made == {name: (folder / name).read_bytes() for name in made}
    assert made[curves.PNG].startswith(b"\x89PNG")


def test_the_command_says_the_sentences_and_where_the_page_is(main, folder):
    done = main("curves", folder)
    (sentence,) = json.loads((folder / "curves.json").read_text())["sentences"]
    assert done == (0, f"{sentence}\nPage: {folder / curves.MARKDOWN}\n", "")


def test_a_page_that_cannot_be_written_is_one_sentence_and_exit_code_2(main, folder):
    (folder / curves.MARKDOWN).mkdir()
    done = main("curves", folder)
    assert done == (2, "", f"swav-bench: folder = {str(folder)!r}: cannot be written (Is a directory)\n")


def test_runs_of_another_thing_are_not_laid_over_each_other(folder):
    make_run(folder, "jax", 7, 0.7, recipe="cifar10")
    with pytest.raises(InvalidInput, match="asked for different things"):
        curves.write(folder)


def test_runs_that_have_not_ended_or_have_lost_their_losses_are_left_out(folder):
    unfinished, without_log = (make_run(folder, "jax", seed, 0.1) for seed in (7, 8))
    (unfinished / "summary.json").unlink()
    summary = json.loads((without_log / "summary.json").read_text())
    (without_log / "summary.json").write_text(json.dumps(summary | {"final_loss": None}))
    assert [run.seed for run in curves.read(folder) if run.framework == "jax"] == [0, 1, 2]


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="at least two runs"):
        curves.write(tmp_path)
    with pytest.raises(InvalidInput, match="a folder of training runs"):
        curves.write(tmp_path / "nowhere")
