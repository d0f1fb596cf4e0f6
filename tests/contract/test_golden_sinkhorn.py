"""Golden files a: Sinkhorn on one rank, and over two."""

from pathlib import Path

import numpy as np
import pytest

from swav_spec.errors import InvalidInput
from swav_spec.testing.assertions import assert_codes_close, assert_golden
from swav_spec.testing.golden import cases
from swav_spec.testing.subject import Subject

pytestmark = pytest.mark.needs("maths")

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = cases(GOLDEN, "a_sinkhorn_world1", "a_sinkhorn_world2")
ASSIGNMENTS = [case for case in CASES if case.about["iterations"] >= 1]
OF_TWO_RANKS = [case for case in ASSIGNMENTS if case.about["world_size"] == 2]
#: One assignment of each shape: enough for limits that values do not touch.
SHAPES = list({case.arrays["scores"].shape: case for case in ASSIGNMENTS}.values())


def settings(case):
    return {"epsilon": case.about["epsilon"], "iterations": case.about["iterations"]}


def test_the_files_hold_what_the_tests_count_on():
    assert len([case for case in ASSIGNMENTS if case.about["world_size"] == 1]) == 168
    assert len(OF_TWO_RANKS) == 88


@pytest.mark.parametrize("case", ASSIGNMENTS, ids=lambda case: case.name)
def test_codes(implementation, precision, case):
    scores = case.input("scores", precision)
    codes = implementation.to_host(implementation.sinkhorn(implementation.to_device(scores), **settings(case)))
    assert_golden(codes, case.output("q", precision), precision=precision, what=case.name)
    assert_codes_close(
        codes,
        case.output("q", "float64"),
        precision=precision,
        largest_score=float(np.abs(scores).max()),
        what=case.name,
        **settings(case),
    )


@pytest.mark.parametrize("case", OF_TWO_RANKS, ids=lambda case: case.name)
def test_codes_of_two_ranks(implementation, precision, case):
    halves = np.split(case.input("scores", precision), 2)
    codes = np.concatenate(Subject(implementation).sinkhorn_in_shards(halves, **settings(case)))
    assert_golden(codes, case.output("q", precision), precision=precision, what=case.name)


@pytest.mark.parametrize("case", SHAPES, ids=lambda case: str(case.arrays["scores"].shape))
def test_no_iteration_is_no_assignment(implementation, precision, case):
    scores = implementation.to_device(case.input("scores", precision))
    with pytest.raises(InvalidInput, match="iterations = 0"):
        implementation.sinkhorn(scores, epsilon=case.about["epsilon"], iterations=0)
