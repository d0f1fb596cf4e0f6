"""Commands in this process, each with a stand-in for what would start a framework: what they say, and the exit code."""

from __future__ import annotations

import json
import runpy
import sys
from types import SimpleNamespace

import pytest
from tests.harness import synthetic_records as synthetic

from swav_bench import cli, environment, probe
from swav_spec.registry import BUILT_IN

RIGHT = "tests.meta.strangers:SinkhornOnly"
NEVER_FROZEN = """
from swav_spec import schedule

class Mine:
    learning_rates = staticmethod(schedule.learning_rates)

    def step_settings(self, config, step, count):
        return schedule.step_settings(config, step, count)._replace(frozen=False)
"""


@pytest.fixture
def asked(monkeypatch):
    """Frameworks that answer: torch on both devices, numpy on one; the others are not there. Who was asked, by whom."""
    seen = {}

    def answer(name, interpreter, variables):
        seen[name] = interpreter
        facts = {"framework": name, "version": "7.1", "device": "cpu", "modes": ["eager", "graph"]}
        if name == "torch":
            return {"cpu": facts, "gpu": facts | {"device": "Example H200"}}
        if name == "numpy":
            return {"cpu": facts, "gpu": "device = 'gpu': must be cpu"}
        if name == "jax":
            return dict.fromkeys(probe.DEVICES, f"FileNotFoundError: {interpreter} gave no answer")
        return dict.fromkeys(probe.DEVICES, f"{name} is missing; install it with: pip install 'swav-bench[{name}]'")

    monkeypatch.setattr(cli.probe, "probe", answer)
    return seen


def test_env_shows_what_is_here_and_what_to_install(main, asked, monkeypatch):
    card = {"name": "Example H200", "memory_bytes": 141 * 2**30, "driver": "580.1", "power_limit_w": 700.0}
    monkeypatch.setattr(environment.nvml, "first_gpu", lambda: SimpleNamespace(describe=lambda: card))
    done = main("env", "--python", "jax=/opt/jax/python")
    assert (done.code, done.err) == (0, "")
    assert "Example H200, 141 GiB, driver 580.1" in done.out
    rows = {line.split("│")[1].strip(): line for line in done.out.splitlines() if line.startswith("│")}
    for words in ("torch 7.1", "cpu", "Example H200", "eager, graph"):
        assert words in rows["torch"]
    assert [cell.strip() for cell in rows["numpy"].split("│")[2:5]] == ["numpy 7.1", "cpu", "no"]
    assert "cannot be loaded" in rows["jax"]
    advice = [line for line in done.out.splitlines() if "pip install" in line]
    no_answer = "jax: FileNotFoundError: /opt/jax/python gave no answer; to add it: pip install 'swav-bench[jax]'"
    missing = "tensorflow: tensorflow is missing; install it with: pip install 'swav-bench[tensorflow]'"
    assert advice[:2] == [no_answer, missing]
    assert not [line for line in advice if line.startswith(("numpy", "torch"))]
    assert asked == dict.fromkeys(BUILT_IN, sys.executable) | {"jax": "/opt/jax/python"}


@pytest.mark.usefixtures("asked")
def test_env_says_that_there_is_no_gpu(main, monkeypatch):
    monkeypatch.setattr(environment.nvml, "first_gpu", lambda: None)
    done = main("env")
    assert done.code == 0
    assert "No NVIDIA GPU found." in done.out
    assert f"Python {sys.version.split()[0]}" in done.out


@pytest.mark.parametrize("name", [RIGHT, "numpy"])
def test_conform_passes_what_is_right_and_writes_nothing_unasked(main, tmp_path, name):
    done = main("conform", name, "--select", "sinkhorn.rows-sum-to-one", "--profile", "dev")
    assert (done.code, done.err) == (0, "")
    assert "1 passed, 0 failed" in done.out
    assert list(tmp_path.iterdir()) == []


def test_conform_finds_a_class_in_the_working_directory_and_writes_its_verdict(main, tmp_path):
    (tmp_path / "never_frozen.py").write_text(NEVER_FROZEN)
    done = main("conform", "never_frozen:Mine", "--select", "schedule", "--json", "verdict.json")
    del sys.modules["never_frozen"]
    assert (done.code, done.err) == (1, "")
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    (failed,) = (item for item in verdict["properties"] if item["status"] == "failed")
    assert failed["name"] in done.out
    assert failed["counterexample"]["config"].startswith("Config(batch=")
    assert (verdict["implementation"], verdict["precision"], verdict["profile"]) == (
        "never_frozen:Mine",
        "float32",
        "ci",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "tpu"], "device = 'tpu': must be cpu or gpu"),
        (["--precision", "fp8"], "precision = 'fp8': must be one of float64"),
        (["--json", "nowhere/verdict.json"], "json = 'nowhere/verdict.json': must be in a folder that exists"),
        (["--json", "folder", "--select", "rows-sum-to-one"], "json = 'folder': cannot be written (Is a directory)"),
    ],
)
def test_a_mistake_in_conform_gets_one_sentence_and_exit_code_2(main, tmp_path, arguments, words):
    (tmp_path / "folder").mkdir()
    done = main("conform", RIGHT, *arguments)
    assert done.code == 2
    assert done.err.startswith(f"swav-bench: {words}")
    assert done.err.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_conform_without_hypothesis_says_what_to_install(main, monkeypatch):
    monkeypatch.delitem(sys.modules, "swav_spec.testing.suite", raising=False)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    done = main("conform", RIGHT)
    assert done.code == 2
    assert done.err == (
        "swav-bench: conform needs hypothesis, which is not installed; "
        "install it with: pip install 'swav-bench[conform]'\n"
    )


def test_check_says_that_all_goals_are_reached(main, tmp_path):
    synthetic.write(tmp_path / "results", synthetic.demo(("torch",)))
    done = main("check", "results")
    assert done == (0, "Goals: all 8 cells learn well beyond raw pixels, random weights and ln K.\n", "")


def test_a_process_that_imports_the_command_s_file_runs_nothing(capsys, monkeypatch):
    """As those that decode images do: they import the file of the process that started them, by another name."""
    monkeypatch.setattr(sys, "argv", ["swav-bench", "--version"])
    runpy.run_module("swav_bench", run_name="swav_bench.__main__")
    assert capsys.readouterr() == ("", "")


def test_an_optional_peer_that_can_be_loaded_is_planned(main, monkeypatch):
    monkeypatch.setattr(cli.probe, "probe", lambda *_: {"cpu": {"framework": "lightly"}, "gpu": "no GPU"})
    done = main("run", "--suite", "cifar", "--dry-run")
    assert done.code == 0
    assert "Without lightly" not in done.out
    assert len([line for line in done.out.splitlines() if line.startswith("to do      lightly ")]) == 4
