"""The demo's goals, judged from records."""

from __future__ import annotations

import math

import pytest

from swav_bench import environment, goals, records
from swav_bench.records import Results
from swav_spec.errors import InvalidInput

GOOD = {
    "knn_top1": 0.70,
    "raw_knn_top1": 0.38,
    "random_knn_top1": 0.25,
}
LEARNT = {"final_loss": 2.4, "ln_k": math.log(30)}


@pytest.fixture
def record(cell):
    plan = {"version": "1", "environment": environment.describe()}

    def make(status="ok", dataset="textures", **figures):
        planned = records.not_run(cell(dataset=dataset).to_dict(), plan)
        return planned | {
            "status": status,
            "accuracy": {name: figures.get(name, value) for name, value in GOOD.items()},
            "learning": {name: figures.get(name, value) for name, value in LEARNT.items()},
        }

    return make


def check(*found):
    return goals.check(Results("demo", {}, list(found)))


def test_a_run_that_learns_passes(record):
    assert check(record(), record()) == (2, [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"knn_top1": 0.52}, "kNN 0.520, and 0.530 is needed (raw pixels"),
        ({"random_knn_top1": 0.46}, "kNN 0.700, and 0.710 is needed (random weights"),
        ({"final_loss": 2.95}, "loss 2.950, and at most 2.901 is allowed"),
        ({"status": "collapsed"}, "collapsed"),
        ({"status": "not_run"}, "not_run"),
    ],
)
def test_each_goal_can_be_missed(record, change, words):
    judged, (miss,) = check(record(), record(**change))
    assert judged == 2
    assert words in miss


def test_other_data_has_no_goals(record):
    assert goals.goals_of(record(dataset="digits")) is None
    with pytest.raises(InvalidInput, match="no record of a suite with goals"):
        check(record(dataset="digits"))


def test_suites_without_goals_and_unknown_ones_ask_for_nothing(record):
    for suite in ("imagenet-shapes", "full", "of-another-version"):
        asked = record()
        asked["cell"] = asked["cell"] | {"suite": suite}
        assert goals.goals_of(asked) is None
    five_seeds = record()
    five_seeds["cell"] = five_seeds["cell"] | {"suite": "accuracy"}
    assert goals.goals_of(five_seeds) == goals.goals_of(record())
