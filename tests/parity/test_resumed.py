"""A run that is killed with signal 9 and goes on ends with the very weights of a run that was left alone.

On one machine, with one thread, in float32, bit for bit. The variable KILLS says how often the run is killed at random
moments (1 unless set): KILLS=10 python -m pytest tests/parity/test_resumed.py -k random
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tests.harness.killing import check, kill_again_and_again

from swav_bench import checkpoint, children, run_config, train
from swav_bench.run_folder import RunFolder
from swav_spec.testing.images import random_images

ROOT = Path(__file__).parents[2]
FRAMEWORKS = ("torch", "jax", "tensorflow")
STEPS, KILLED_AT, IMAGES, SIDE = 10, 5, 40, 24
KILLS = int(os.environ.get("KILLS", "1"))
#: The freeze ends, the queue fills and is used, and the rate warms up, before and after the kill.
CHANGES = {
    "batch": 8,
    "crops": "2x16+2x8",
    "network": "convnet4",
    "optimizer.kind": "larc_sgd",
    "queue_length": 32,
    "freeze_steps": 2,
    "warmup_epochs": 1.5,
}

pytestmark = pytest.mark.timeout(3000)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, pixels in enumerate(random_images(3, IMAGES, SIDE, SIDE)):
        place = folder / "train" / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:02}.png")
    return folder


@pytest.fixture(autouse=True)
def _tests_on_path(monkeypatch):
    """Children import `tests.parity.killed`."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))


def settings_of(framework, images, out, *, optimizer="larc_sgd", steps=STEPS, every=1):
    return run_config.Settings(
        framework,
        str(images),
        str(out),
        changes=CHANGES | {"optimizer.kind": optimizer},
        steps=steps,
        threads=1,
        log_every=1,
        checkpoint_every=every,
    )


def go(*arguments, **options):
    console = Console(file=io.StringIO(), width=1000)
    code = train.train(settings_of(*arguments, **options), console, {})
    return code, console.file.getvalue()


def assert_same_run(found, wanted):
    one, other = (checkpoint.latest(folder.checkpoints) for folder in (found, wanted))
    assert one.step == other.step
    assert one.arrays.keys() == other.arrays.keys()
    differing = [name for name, array in other.arrays.items() if not np.array_equal(one.arrays[name], array)]
    assert differing == []
    assert [line["loss"] for line in found.lines()] == [line["loss"] for line in wanted.lines()]


@pytest.mark.parametrize(
    ("framework", "optimizer"), [*((framework, "larc_sgd") for framework in FRAMEWORKS), ("torch", "adam")]
)
def test_five_steps_a_kill_and_five_steps_are_ten(framework, optimizer, images, tmp_path, monkeypatch):
    straight, killed = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "killed")
    assert go(framework, images, straight.path, optimizer=optimizer)[0] == 0
    monkeypatch.setenv("KILLED_AT", str(KILLED_AT))
    tampered = f"tests.parity.killed:{framework.capitalize()}"
    code, said = go(tampered, images, killed.path, optimizer=optimizer)
    assert code == 1
    assert "killed" in said
    assert check(killed) == KILLED_AT
    monkeypatch.delenv("KILLED_AT")
    code, said = go(framework, images, killed.path, optimizer=optimizer)
    assert code == 0
    assert f"Goes on from step {KILLED_AT} of {STEPS}" in said
    assert_same_run(killed, straight)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_kills_at_random_moments(framework, images, tmp_path):
    steps = max(120, 40 * KILLS)  # more than the quickest framework takes in the longest wait for a kill
    straight, killed = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "killed")
    told = [word for name, value in CHANGES.items() for word in ("--set", f"{name}={value}")]
    told += ["--framework", framework, "--data", images, "--steps", steps, "--threads", 1, "--log-every", 1]
    command = [sys.executable, "-m", "swav_bench", "train", *map(str, told), "--checkpoint-every", "1", "--out"]

    def start():
        return subprocess.Popen(
            [*command, str(killed.path)],
            env=children.child_environment(1, "cpu"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    found = kill_again_and_again(start, killed, kills=KILLS, longest_s=0.4, seed=FRAMEWORKS.index(framework))
    assert found[0] < steps, "the kill came too late"
    assert go(framework, images, straight.path, steps=steps, every=0)[0] in (0, 1)
    assert_same_run(killed, straight)
