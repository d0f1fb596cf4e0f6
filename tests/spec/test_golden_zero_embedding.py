"""Golden case c2, where this project knowingly differs from the original program.

An embedding of zeros reaches the queue's last place. The original program takes the zeros for an empty place and
leaves the full queue of that view out for one more step; here rows are counted, and the queue is used.
"""

from pathlib import Path

import numpy as np
import pytest

from swav_spec.config import Execution
from swav_spec.implementation import NumpyImplementation
from swav_spec.testing.assertions import assert_golden, golden_bound
from swav_spec.testing.golden import cases, replay
from swav_spec.tolerance import error

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [
    case for case in cases(GOLDEN, "c_queue_world1", "c_queue_world2") if case.about["zero_embedding_at"] == [0, 0, 2]
]
MATHS = NumpyImplementation(Execution(precision="float64"))
PARTS = 3  # the step at which the two ways part


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equal_until_the_zeros_reach_the_last_place(case):
    record = replay(MATHS, case, "float64")
    for name, values in record.items():
        expected = case.output(name, "float64")
        for step in range(PARTS):
            what = f"{case.name}, {name}, step {step}"
            assert_golden(values[:, step], expected[:, step], precision="float64", what=what)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_then_the_full_queue_is_used(case):
    record = replay(MATHS, case, "float64")
    batch, rows = case.about["B_local"], case.about["queue_rows_local"]
    recorded = case.output("q_rows_in", "float64")
    assert np.unique(recorded[:, PARTS, 0]).tolist() == [batch]
    assert np.unique(record["q_rows_in"][:, PARTS]).tolist() == [rows + batch]
    codes, expected = record["q"][:, PARTS], case.output("q", "float64")[:, PARTS]
    # View 0 differs, and with it the loss and what is learnt; view 1 and its codes do not.
    assert error(codes[:, 0], expected[:, 0]) > 1000 * golden_bound("float64")
    assert_golden(codes[:, 1], expected[:, 1], precision="float64", what=f"{case.name}, codes of view 1")
    for name in ("loss", "W_raw_after"):
        found = error(record[name][:, PARTS], case.output(name, "float64")[:, PARTS])
        assert found > 1000 * golden_bound("float64"), name
    # From the next step on both use the queue.
    assert record["q_rows_in"][:, PARTS + 1 :].tolist() == recorded[:, PARTS + 1 :].tolist()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equal_throughout_where_the_recorded_rows_decide(case):
    record = replay(MATHS, case, "float64", rows_in=case.output("q_rows_in", "float64"))
    for name, values in record.items():
        expected = case.output(name, "float64")
        assert_golden(values, expected, precision="float64", what=f"{case.name}, {name}")
