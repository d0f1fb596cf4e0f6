"""A run made to collapse is called so and stopped; the recipe as it is learns in silence. With one real framework."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from swav_bench import checkpoint, run_config, train, watch
from swav_bench.run_folder import RunFolder

FRAMEWORK = "torch"
#: By then the loss of the collapsed run has stayed at ln K for a while, and a healthy one has left it.
STEPS = 90


@pytest.fixture
def go(tmp_path):
    def train_(**changes):
        settings = run_config.Settings(
            FRAMEWORK,
            "textures",
            str(tmp_path / "run"),
            changes=changes,
            steps=STEPS,
            threads=1,
            log_every=5,
            checkpoint_every=30,
            evaluate=False,
            stop_on_collapse=True,
        )
        console = Console(file=io.StringIO(), width=1000, color_system=None)
        return train.train(settings, console, {}), console.file.getvalue(), RunFolder(tmp_path / "run")

    return train_


def test_soft_codes_collapse_and_the_run_is_stopped(go):
    code, said, folder = go(epsilon=0.05)
    assert code == 1
    summary, last = folder.read(folder.summary), folder.lines()[-1]
    assert summary["status"] == "collapsed"
    assert watch.WINDOW <= summary["step"] < STEPS
    assert summary["step"] == last["step"]
    assert f"COLLAPSE? step {last['step']}: the loss is" in said
    assert last["alarms"] == ["loss"]
    # What was trained stays, finite, for whoever wants to look.
    kept = checkpoint.latest(folder.checkpoints)
    assert kept.step == last["step"]
    assert all(np.isfinite(array).all() for array in kept.arrays.values())


def test_the_recipe_as_it_is_learns_in_silence(go):
    code, said, folder = go()
    assert code == 0, said
    assert "COLLAPSE" not in said
    assert {tuple(line["alarms"]) for line in folder.lines()} == {()}
    assert folder.lines()[-1]["step"] == STEPS
