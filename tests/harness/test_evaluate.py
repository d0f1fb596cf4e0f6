"""Judging frozen features: the figures are those of the probes, every one beside raw pixels and random weights."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from tests.harness import in_process
from tests.harness.weights_of import SMALL, backbone, small, write

from swav_bench import api, evaluate, evaluation, reading
from swav_bench.reading import Reading
from swav_data.images import ImageSet, Splits
from swav_data.sources import load
from swav_eval import probes
from swav_spec import views
from swav_spec.errors import InvalidInput
from swav_spec.multicrop import central_plan
from swav_spec.network import initial_weights
from swav_spec.tolerance import bound, error

NUMPY = "numpy_trainer:NumpyTrainer"
PROBES = ("knn", "linear")
FILES = ["classes-knn.csv", "classes-linear.csv", "confusion-knn.csv", "confusion-linear.csv", "evaluation.csv",
         "evaluation.json"]  # fmt: skip


@pytest.fixture(autouse=True)
def _here(monkeypatch, request):
    """What a child process does is done here, but for the command's tests, and finds its trainer as a child would."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    if not {"command", "main"} & set(request.fixturenames):
        monkeypatch.setattr(reading.children, "run", in_process.run)


def given(tmp_path, data, **changes):
    return Reading(**{"weights": write(tmp_path), "data": str(data), "framework": NUMPY} | changes)


def figures_of(train, train_labels, test, test_labels, classes, **options):
    k = evaluation.neighbours(len(train))
    return dict(probes.evaluate(train, train_labels, test, test_labels, **{"classes": classes, "k": k} | options))


def assert_figures(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        # The features differ by roundings, and with them what is a real number; an accuracy only if a vote was tied.
        same = (
            found[name] == value
            if not isinstance(value, float)
            else error(found[name], value) <= bound("float32", depth=9)
        )
        assert same, (name, found[name], value)


def test_the_figures_are_the_probes_of_the_networks_own_features(tmp_path, images_with_test):
    out = tmp_path / "new" / "evaluation"
    result = evaluate.evaluate(given(tmp_path, images_with_test), out)
    data = load(str(images_with_test))
    found = small()
    fresh = dataclasses.replace(found, tensors=initial_weights(SMALL, 0))
    from numpy_trainer import NumpyTrainer

    from swav_spec.config import Execution

    for name, weights in (("learnt", found), ("random", fresh)):
        model = api.Model(weights, NumpyTrainer(Execution()))
        features = [model.embed(part.images).astype(np.float32) for part in (data.train, data.test)]
        assert_figures(
            result["figures"][name], figures_of(features[0], data.train.labels, features[1], data.test.labels, 2)
        )
    raw = [probes.raw_pixels(part.images) for part in (data.train, data.test)]
    assert_figures(result["figures"]["raw pixels"], figures_of(raw[0], data.train.labels, raw[1], data.test.labels, 2))
    assert result["figures"]["learnt"] != result["figures"]["random"]
    assert sorted(path.name for path in out.iterdir()) == FILES


def test_the_files_say_what_the_figures_say(tmp_path, images_with_test):
    out = tmp_path / "evaluation"
    result = evaluate.evaluate(given(tmp_path, images_with_test), out)
    assert json.loads((out / "evaluation.json").read_text()) == json.loads(json.dumps(result))
    assert result["data"]["splits"]["test"]["samples"] == 16
    assert result["weights"]["origin"] == {"file": "small"}
    with (out / "evaluation.csv").open() as file:
        rows = {row["features"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["learnt", "random", "raw pixels"]
    for name, row in rows.items():
        for figure, value in result["figures"][name].items():
            assert row[figure] == ("" if value is None else str(value))
    for probe in PROBES:
        with (out / f"confusion-{probe}.csv").open() as file:
            header, *lines = csv.reader(file)
        assert header == ["label \\ prediction", "lying", "upright"]
        matrix = np.array([[int(cell) for cell in line[1:]] for line in lines])
        assert matrix.sum(axis=1).tolist() == [8, 8]
        assert np.trace(matrix) / 16 == result["figures"]["learnt"][f"{probe}_top1"]
        with (out / f"classes-{probe}.csv").open() as file:
            classes = list(csv.DictReader(file))
        assert [float(row["recall"]) for row in classes] == (np.diag(matrix) / 8).tolist()


def test_images_of_several_sizes_and_their_raw_pixels(tmp_path):
    """Raw pixels are those of the same middle, at 32 pixels where the views are larger."""
    draw = np.random.default_rng(3)
    for split, count in (("train", 12), ("val", 6)):
        for number in range(count):
            place = tmp_path / "photos" / split / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            height, width = draw.integers(40, 70, 2)
            Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(place / f"{number}.png")
    reads = given(tmp_path, tmp_path / "photos", weights=write(tmp_path, small(size=40), "w.safetensors"), batch=5)
    seen = {}
    judge = probes.judge

    def spy(train, *rest, **options):
        seen[train.shape[1]] = train
        return judge(train, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "judge", spy)
        result = evaluate.evaluate(reads, tmp_path / "out")
    assert (result["data"]["train"], result["data"]["test"]) == ("train", "validation")
    assert result["size"] == 40
    data = load(str(tmp_path / "photos")).train
    config = api.Central((32,), small().augmentation)
    plan = central_plan(32, data.heights, data.widths)
    (crops,) = views.views(data.images, plan, config)
    pixels = crops * config.augmentation.std + config.augmentation.mean - 0.5
    assert error(seen[32 * 32 * 3], pixels.reshape(len(pixels), -1)) <= bound("float32")


def test_top_5_where_the_classes_allow_it_and_without_the_linear_probe(tmp_path, monkeypatch):
    draw = np.random.default_rng(4)

    def part(name, count):
        pixels = draw.integers(0, 255, (count, 8, 8, 3), dtype=np.uint8)
        return ImageSet(name, pixels, np.full(count, 8), np.full(count, 8), np.arange(count) % 7, tuple("abcdefg"))

    splits = Splits(train=part("x/train", 70), test=part("x/test", 35))
    monkeypatch.setattr("swav_bench.features_task.open_source", lambda source: splits)
    out = tmp_path / "out"
    result = evaluate.evaluate(given(tmp_path, "x"), out)
    assert sorted(path.name for path in out.iterdir()) == FILES
    for one in result["figures"].values():
        assert 1 >= one["knn_top5"] >= one["knn_top1"] > 0
        assert 1 >= one["linear_top5"] >= one["linear_top1"]
    for probe in PROBES:
        matrix = pd.read_csv(out / f"confusion-{probe}.csv", index_col=0).to_numpy()
        assert matrix.sum(axis=1).tolist() == [5] * 7
        assert matrix.sum(axis=0).tolist() != [5] * 7
    result = evaluate.evaluate(given(tmp_path, "x"), out, linear=False, k=3, temperature=0.07)
    for one in result["figures"].values():
        assert (one["linear_top1"], one["linear_top5"], one["linear_c"], one["linear_converged"]) == (None,) * 4
        assert (one["knn_k"], one["knn_temperature"]) == (3, 0.07)
    # No file of the evaluation before, which had other figures.
    assert sorted(path.name for path in out.iterdir()) == [name for name in FILES if "linear" not in name]
    shown = Console(width=200, record=True, file=io.StringIO())
    shown.print(evaluate.table(result))
    assert "x: 70 train and 35 test images, 7 classes" in shown.export_text()


def test_what_whoever_reads_the_figures_should_not_miss():
    def result(learnt, random, raw, *, converged=True):
        names = {"learnt": learnt, "random": random, "raw pixels": raw}
        made = {
            name: {"knn_top1": value, "linear_top1": value, "linear_converged": converged}
            for name, value in names.items()
        }
        return {"figures": made}

    assert evaluate.warnings(result(0.9, 0.2, 0.3)) == []
    assert evaluate.warnings(result(0.3, 0.2, 0.3)) == [
        "By nearest neighbours, these features are no better than raw pixels.",
        "By the linear probe, these features are no better than raw pixels.",
    ]
    assert "random weights and raw pixels" in evaluate.warnings(result(0.1, 0.2, 0.3))[0]
    assert evaluate.warnings(result(0.9, 0.2, 0.3, converged=False))[0] == (
        "The linear probe of these weights stopped before its tolerance was met."
    )


def test_a_backbone_alone_is_evaluated(tmp_path, images_with_test):
    alone = given(tmp_path, images_with_test, weights=write(tmp_path, backbone(small()), "backbone.safetensors"))
    whole = given(tmp_path, images_with_test)
    figures = [evaluate.evaluate(reads, tmp_path / "out")["figures"] for reads in (alone, whole)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({}, {"k": 0}, "k = 0"),
        ({}, {"temperature": 0.0}, r"temperature = 0\.0"),
        ({"framework": "caffe"}, {}, "caffe is not installed"),
        ({"data": "no such data"}, {}, "dataset = 'no such data'"),
    ],
)
def test_mistakes_get_a_sentence(tmp_path, images_with_test, changes, options, says):
    with pytest.raises(InvalidInput, match=says):
        evaluate.evaluate(given(tmp_path, **{"data": images_with_test} | changes), tmp_path / "out", **options)
    assert not list(tmp_path.glob("out/*"))


def test_a_set_without_test_images_and_a_place_that_is_a_file_are_refused(tmp_path, images):
    with pytest.raises(InvalidInput, match="has neither test nor validation images"):
        evaluate.evaluate(given(tmp_path, images), tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"out = .*file': cannot be written"):
        evaluate.evaluate(given(tmp_path, images), tmp_path / "file")


def test_the_command(command, tmp_path, images_with_test):
    write(tmp_path)
    done = command("evaluate", "--weights", "small.safetensors", "--data", images_with_test, "-f", NUMPY, "--out", "e")
    assert (done.returncode, done.stderr) == (0, "")
    assert "96 train and 16 test images, 2 classes" in done.stdout
    for words in ("kNN top-1", "random weights", "raw pixels", "RankMe", "Files: e"):
        assert words in done.stdout
    result = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert f"{100 * result['figures']['learnt']['linear_top1']:.2f} %" in done.stdout
    done = command("evaluate", "--weights", "absent", "--data", images_with_test, "-f", NUMPY)
    assert done.returncode == 2
    assert done.stderr.startswith("swav-bench: weights ")


def test_a_framework_that_fails_is_one_sentence_and_exit_code_1(main, tmp_path, images_with_test):
    write(tmp_path)
    done = main("evaluate", "--weights", "small.safetensors", "--data", images_with_test, "-f", "numpy_trainer:Broken")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "swav-bench: numpy_trainer:Broken: while reading the train images: RuntimeError: the device has gone\n"
    )
    assert list((tmp_path / "evaluation").iterdir()) == []
