"""Golden files c, d and f: prototypes trained over several steps, with queue and freeze; LARC over SGD."""

from pathlib import Path

import numpy as np
import pytest

from swav_spec.testing.assertions import assert_golden, dtype_of
from swav_spec.testing.golden import arrays_of, cases, replay

pytestmark = pytest.mark.needs("maths")

GOLDEN = Path(__file__).parents[1] / "golden"
QUEUES = cases(GOLDEN, "c_queue_world1", "c_queue_world2")
UPDATES = cases(GOLDEN, "d_larc_sgd")
FREEZES = cases(GOLDEN, "f_prototypes")


def assert_replayed(record, case, precision, *, step_axis):
    for name, values in record.items():
        expected = case.output(name, precision)
        for step in range(expected.shape[step_axis]):
            value, wanted = values.take(step, axis=step_axis), expected.take(step, axis=step_axis)
            what = f"{case.name}, {name}, step {step}"
            if np.isnan(wanted).all():
                assert np.isnan(value).all(), f"{what}: must not exist yet"
            elif name == "q_rows_in":
                assert value.tolist() == wanted.tolist(), what
            else:
                assert_golden(value, wanted, precision=precision, what=what)


@pytest.mark.parametrize("case", QUEUES, ids=lambda case: case.name)
def test_queue_and_prototypes(implementation, precision, case):
    # One case turns on an embedding of zeros, which the files take for an empty place: there, the files' own count of
    # rows decides. What this project does instead is in tests/spec/test_golden_zero_embedding.py.
    misfires = case.about["zero_embedding_at"] == [0, 0, 2]
    rows_in = case.output("q_rows_in", precision) if misfires else None
    assert_replayed(replay(implementation, case, precision, rows_in=rows_in), case, precision, step_axis=1)


@pytest.mark.parametrize("case", FREEZES, ids=lambda case: case.name)
def test_freeze(implementation, precision, case):
    assert_replayed(replay(implementation, case, precision), case, precision, step_axis=0)


def test_normalised_rows(implementation, precision):
    arrays = arrays_of(GOLDEN, "f_prototypes")
    dtype = dtype_of(precision)
    rows = implementation.normalize_rows(implementation.to_device(arrays["norm_in"].astype(dtype)))
    # Row by row: their norms go from 0 and 1e-20 to 1e10.
    for number, (row, expected) in enumerate(
        zip(implementation.to_host(rows), arrays[f"norm_out_{dtype.__name__}"], strict=True)
    ):
        assert_golden(row, expected, precision=precision, what=f"f_prototypes, row {number}")


@pytest.mark.parametrize("case", UPDATES, ids=lambda case: case.name)
def test_larc_sgd(implementation, precision, case):
    about, names = case.about, case.about["params"]
    params = {name: implementation.to_device(case.input(f"p0_{name}", precision)) for name in names}
    momentum = dict.fromkeys(names)
    for step, lr in enumerate(case.arrays["lr"]):
        grads = {
            name: None
            if step in about["none_grad_steps"].get(name, ())
            else implementation.to_device(case.input(f"grads_{name}", precision)[step])
            for name in names
        }
        params, momentum = implementation.larc_sgd(
            params,
            grads,
            momentum,
            lr=float(lr),
            weight_decay=about["wd"],
            trust=about["trust"],
            decay=about["momentum"],
        )
        for name in names:
            what = f"{case.name}, {name}, step {step}"
            after = implementation.to_host(params[name])
            assert_golden(after, case.output(f"p_{name}", precision)[step], precision=precision, what=what)
            buffer = implementation.to_host(momentum[name])
            expected = case.output(f"mom_{name}", precision)[step]
            assert_golden(buffer, expected, precision=precision, what=f"{what}, buffer")
