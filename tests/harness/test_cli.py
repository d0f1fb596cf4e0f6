"""The command, as a person meets it."""

from __future__ import annotations

import json
import os
import re

import pytest

from swav_bench import records


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--suite", "nothing"], "suite = 'nothing': must be one of demo"),
        (["run", "-i", "pytorch"], "implementation = 'pytorch': must be one of numpy, torch, jax, tensorflow"),
        (["run", "-i", "nowhere_at_all:Class"], "nowhere_at_all is not installed"),
        (["run", "--batch", "1"], "batch = 1: must be at least 2"),
        (["run", "--steps", "3"], "steps = 3: must be at least 15"),
        (["run", "--device", "tpu"], "device = 'tpu': must be cpu or gpu"),
        (["run", "--precision", "float16"], "precision = 'float16': must be one of float64"),
        (["run", "--queue", "maybe"], "queue = 'maybe': must be both, on or off"),
        (["run", "--python", "jax"], "python = 'jax': must be NAME=INTERPRETER"),
        (["run", "--timeout", "0"], "timeout = 0.0: must be more than 0 seconds"),
        (["run", "--time-budget", "soon"], "time = 'soon': must be a number with s, m or h"),
        (["run", "--time-budget", "0m"], "time budget = 0.0: must be more than 0 seconds"),
        (["run", "--network", "vgg"], "network = 'vgg': must be one of resnet50"),
        (["run", "--crops", "2x32"], "crops = '2x32': must be 2 times COUNTxSIZE"),
        (["run", "--input", "tape"], "input = 'tape': must be one of resident, stream, views"),
        (["run", "--suite", "accuracy", "-i", "plain"], "implementation = 'plain': must be one of numpy, torch"),
        (["run", "--out", "/proc/nowhere", "-i", "fake:Fake"], "must be a folder that can be written"),
        (["run", "-i", "fake:WithoutGpu", "--device", "gpu"], "fake:WithoutGpu cannot use a GPU here: device = 'gpu'"),
        (["report", "nowhere"], "must be a folder with records.jsonl"),
        (["check", "nowhere"], "must be a folder with records.jsonl"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_code_2(command, tmp_path, arguments, words):
    done = command(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert words in done.stderr
    assert done.stderr.startswith("swav-bench: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob(records.RECORDS))


def test_hostile_arguments_are_shown_without_effect(command):
    done = command("run", "-i", "\x1b[31m[red]x[/red]")
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert "[red]x[/red]" in done.stderr


def test_an_unknown_option_is_exit_code_2(command):
    done = command("run", "--nothing")
    assert done.returncode == 2
    assert "No such option" in done.stderr


def test_help_names_every_command_and_the_first_one_to_try(command):
    done = command("--help")
    assert done.returncode == 0
    for word in ("run", "report", "check", "env", "list", "swav-bench run --suite demo"):
        assert word in done.stdout
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", command("--version").stdout)


def test_list_names_suites_recipes_networks_and_data(command):
    done = command("list")
    assert done.returncode == 0
    for word in ("demo", "imagenet-800ep", "75.3 %", "resnet50w4", "textures", "digits", "tensorflow"):
        assert word in done.stdout


def test_a_dry_run_lists_the_cells_and_writes_nothing(command, tmp_path):
    done = command("run", "--dry-run")
    assert done.returncode == 0
    assert done.stdout.count("to do ") == 24
    assert re.search(r"24 cells, 24 to do, about \d+ min by estimate", done.stdout)
    assert len(re.findall(r"\(\d+ steps, about \d+ s and \d+\.\d GiB\)", done.stdout)) == 24
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suite", ["imagenet-shapes", "full"])
def test_a_suite_for_gpus_is_rehearsed_on_a_cpu(command, tmp_path, suite):
    done = command("run", "--suite", suite, "--rehearse", "-i", "fake:WithMaths", "--time-budget", "5m")
    assert done.returncode == 0, done.stdout + done.stderr
    found = records.load(tmp_path / "results" / f"{suite}-rehearsal").records
    assert {record["status"] for record in found} == {"ok"}
    assert {record["cell"]["device"] for record in found} == {"cpu"}
    tasks = {record["cell"]["task"] for record in found}
    assert tasks == {"train", "largest_batch"} | ({"kernels"} if suite == "full" else set())


def test_an_optional_peer_is_measured_where_it_can_be_loaded_or_was_asked_for(command, tmp_path):
    (tmp_path / "lightly").mkdir()
    (tmp_path / "lightly" / "__init__.py").write_text("raise ImportError('it is broken')")
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    listed = ("run", "--suite", "imagenet-shapes", "--dry-run")
    without = command(*listed, PYTHONPATH=path)
    assert without.returncode == 0, without.stderr
    first, *cells = without.stdout.splitlines()
    assert re.match(r"Without lightly, a peer that is optional: implementation = 'lightly': .*it is broken", first)
    assert not [line for line in cells if "lightly" in line]
    assert "lightly" in command(*listed, "-i", "lightly", PYTHONPATH=path).stdout
    refused = command("run", "--suite", "imagenet-shapes", "-i", "lightly", "--device", "cpu", PYTHONPATH=path)
    assert refused.returncode == 2
    assert "lightly is not installed" in refused.stderr or "pip install 'swav-bench[lightly]'" in refused.stderr


def test_a_run_ends_with_the_table_and_the_report_and_check_judges_it(command, images, tmp_path):
    matrix = ["--batch", "16", "--multi-crop", "off", "--queue", "off", "--steps", "15", "--precision", "float64"]
    done = command("run", "--out", "results", "--dataset", images, *matrix, "-i", "fake:Fake", "-i", "fake:Exiting")
    assert done.returncode == 1, done.stderr
    assert re.search(r"\[1/2\] ok +fake:Fake .* samples/s", done.stdout)
    assert re.search(r"\[2/2\] error +fake:Exiting .*exit code 7", done.stdout)
    assert "1 of 2 cells failed; --retry-failed measures them again." in done.stdout
    assert done.stdout.strip().splitlines()[-1] == "Report: results/report.html"
    assert (tmp_path / "results" / "report.html").exists()
    assert command("check", "results").returncode == 2

    file = tmp_path / "results" / records.RECORDS
    line = json.loads(file.read_text().splitlines()[0])
    line["cell"] |= {"dataset": "textures"}
    file.write_text(json.dumps(line) + "\n")
    (tmp_path / "results" / records.PLAN).unlink()
    done = command("check", "results")
    assert done.returncode == 2
    assert "accuracy" in done.stderr


def test_no_lr_fails_the_demo_s_goals(command):
    """The textures themselves, with weights that never change: beyond raw pixels nothing is learnt."""
    matrix = ["--batch", "32", "--multi-crop", "off", "--queue", "off", "--steps", "15", "-i", "fake:Fake"]
    done = command("run", "--out", "results", "--lr", "0", *matrix)
    assert done.returncode == 1, done.stderr
    assert "Goals: missed in 1 of 1 cells." in done.stdout
    assert "is needed (raw pixels and a margin)" in done.stdout
    assert "is needed (random weights and a margin)" in done.stdout
    assert command("check", "results").returncode == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("asked", ["list", "--version"])
def test_a_reader_that_leaves_is_no_traceback(command, asked, unbuffered):
    listing = command(asked, background=True, PYTHONUNBUFFERED=unbuffered)
    listing.stdout.close()
    assert listing.stderr.read() == ""
    assert listing.wait(timeout=60) == 1
    listing.stderr.close()
