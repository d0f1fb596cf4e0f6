"""Golden file e, and what a step is told of its place in the run."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from swav_spec.config import Config, CropGroup, Network, Schedule
from swav_spec.errors import InvalidInput
from swav_spec.schedule import learning_rates, step_settings
from swav_spec.testing.assertions import assert_golden
from swav_spec.testing.golden import cases

CASES = cases(Path(__file__).parents[1] / "golden", "e_lr_schedule")
CONFIG = Config(
    batch=4,
    crops=(CropGroup(8, 2, (0.1, 1.0)),),
    network=Network(),
    schedule=Schedule(steps=20, base_lr=1.0, final_lr=0.1, warmup_steps=3),
    queue_length=11,
    queue_start=5,
    freeze_steps=2,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_learning_rates_are_golden(case):
    about = case.about
    schedule = Schedule(
        steps=about["epochs"] * about["iters_per_epoch"],
        base_lr=about["base_lr"],
        final_lr=about["final_lr"],
        warmup_steps=about["warmup_epochs"] * about["iters_per_epoch"],
        start_warmup=about["start_warmup"],
    )
    assert_golden(learning_rates(schedule), case.arrays["lr"], precision="float64", what=case.name)


def test_ends():
    rates = learning_rates(Schedule(steps=20, base_lr=1.0, final_lr=0.1, warmup_steps=5, start_warmup=0.2))
    assert (rates[0], rates[4], rates[5]) == (0.2, 1.0, 1.0)
    assert 0.1 < rates[-1] < rates[-2]
    assert learning_rates(Schedule(steps=3, base_lr=1.0, warmup_steps=1, start_warmup=0.2))[:2].tolist() == [0.2, 1.0]
    assert len(learning_rates(Schedule(steps=4, base_lr=1.0, warmup_steps=4))) == 4


def test_freeze_and_queue():
    count, seen = 0, []
    for step in range(CONFIG.schedule.steps):
        settings = step_settings(CONFIG, step, count)
        seen.append(settings)
        count += CONFIG.batch * settings.push
    assert [settings.frozen for settings in seen] == [True] * 2 + [False] * 18
    assert [settings.push for settings in seen] == [False] * 5 + [True] * 15
    # 11 rows are floored to 8, two batches: pushed at steps 5 and 6, first used at 7.
    assert [settings.use_queue for settings in seen] == [False] * 7 + [True] * 13
    assert np.array([settings.lr for settings in seen]).tolist() == learning_rates(CONFIG.schedule).tolist()


def test_no_queue():
    settings = step_settings(dataclasses.replace(CONFIG, queue_length=0), 10, 0)
    assert (settings.push, settings.use_queue) == (False, False)


@pytest.mark.parametrize("step", [-1, 20])
def test_beyond_the_schedule(step):
    with pytest.raises(InvalidInput, match=f"step = {step}"):
        step_settings(CONFIG, step, 0)
