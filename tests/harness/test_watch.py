"""The watch over a run: silent while it learns, loud when it does not."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from swav_bench import watch
from swav_bench.watch import DEAD, MARGIN, VARIANCE, WINDOW, Watch, embedding_variance
from swav_spec.recipes import recipe, resolve

CONFIG = resolve(recipe("textures"), samples=1024, steps=400)
LN_K = math.log(CONFIG.network.prototypes)
GRACE = watch.grace(CONFIG)


def looks(losses, *, used=30, variance=None, every=10, config=CONFIG):
    """(step, kind) of every alarm, with a look after every `every` steps."""
    found, watching = [], Watch(config)
    for step in range(every, len(losses) + 1, every):
        alarms = watching.look(step, losses[step - every : step], prototypes_used=used, variance=variance)
        found += [(step, alarm.kind) for alarm in alarms]
    return found


def test_a_loss_that_stays_at_ln_k_is_said_once():
    near = LN_K * (1 - MARGIN / 2)
    assert looks([near] * 200) == [(GRACE, "loss")]
    beyond = LN_K * (1 - 2 * MARGIN)
    assert looks([beyond] * 200) == []


def test_nothing_is_said_in_the_time_of_grace():
    assert watch.grace(CONFIG) == CONFIG.schedule.steps // 10
    frozen = dataclasses.replace(CONFIG, freeze_steps=120)
    assert watch.grace(frozen) == 120
    assert looks([LN_K] * 110, config=frozen) == []
    assert looks([LN_K] * 120, config=frozen) == [(120, "loss")]


def test_passing_ln_k_on_the_way_down_is_no_alarm():
    assert looks(np.linspace(1.2 * LN_K, 0.6 * LN_K, 200).tolist()) == []


def test_after_a_recovery_it_is_said_again():
    well = [0.7 * LN_K] * 2 * WINDOW
    ill = [LN_K] * 2 * WINDOW
    steps = [step for step, _ in looks([*well, *ill, *well, *ill], every=WINDOW)]
    assert steps == [3 * WINDOW, 7 * WINDOW]


def test_dead_prototypes():
    possible = min(CONFIG.network.prototypes, 2 * CONFIG.batch)
    fewest = math.ceil(DEAD * possible)
    losses = [0.7 * LN_K] * 60
    assert looks(losses, used=fewest) == []
    assert looks(losses, used=fewest - 1) == [(GRACE, "prototypes")]
    # A batch of 2 has 4 rows of codes: 2 of 30 prototypes are half of what it could use.
    assert looks(losses, used=2, config=dataclasses.replace(CONFIG, batch=2)) == []


def test_embeddings_without_variance_hold_until_they_are_looked_at_again():
    watching, losses = Watch(CONFIG), [0.7 * LN_K] * WINDOW
    seen = [VARIANCE / 2, None, VARIANCE * 2, None, VARIANCE / 2]
    found = [
        [alarm.kind for alarm in watching.look(GRACE + i, losses, prototypes_used=30, variance=variance)]
        for i, variance in enumerate(seen)
    ]
    assert found == [["embeddings"], [], [], [], ["embeddings"]]
    assert watching.active == ("embeddings",)


def test_the_variance_of_unit_embeddings():
    same = np.tile([[0.6, 0.8]], (5, 1))
    assert embedding_variance(same) < 1e-12  # rounding of 1 - 1
    assert embedding_variance(np.array([[1.0, 0.0], [-1.0, 0.0]])) == 1
    assert embedding_variance(np.array([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(0.5)


def test_an_alarm_says_the_step_the_figures_and_what_helps():
    queued = dataclasses.replace(CONFIG, queue_length=256, queue_start=32)
    (alarm,) = Watch(queued).look(80, [LN_K] * WINDOW, prototypes_used=30, variance=0.5)
    for words in (
        "step 80",
        "3.401 over 20 steps",
        "within 3% of ln K = 3.401",
        "a smaller epsilon (now 0.02)",
        "a longer freeze_steps (now 0)",
        "a smaller or later queue (now 256 rows from step 32)",
        "softer crops and colours (now from 20% of an image",
    ):
        assert words in alarm.sentence
