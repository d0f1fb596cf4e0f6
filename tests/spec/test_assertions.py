"""The rule of tolerances, and that assertions built on it fail when they should, saying what, how far and where."""

import math

import numpy as np
import pytest

from swav_spec import tolerance
from swav_spec.config import PRECISIONS
from swav_spec.errors import InvalidInput
from swav_spec.testing.assertions import (
    FINITE_DIFFERENCE,
    assert_close,
    assert_codes_close,
    assert_finite_difference,
    assert_gradients_close,
    assert_same,
    assert_trace,
    gradient_errors,
    trace_bounds,
)


def test_error():
    assert tolerance.error(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25
    assert tolerance.error(np.array([0.0, 3.0]), np.zeros(2)) == 3.0
    assert tolerance.error(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0
    assert tolerance.error(np.zeros(3), np.zeros((3, 1))) == math.inf
    assert tolerance.error(np.array([math.nan]), np.array([1.0])) == math.inf
    assert tolerance.error(np.array([math.nan]), np.array([math.nan])) == math.inf


def test_bounds():
    assert tolerance.bound("float64", depth=1000, gain=1000) == tolerance.FLOAT64_BOUND
    single = [tolerance.bound(precision) for precision in PRECISIONS]
    assert single == sorted(single)
    assert tolerance.bound("float32", depth=3, gain=5) == 15 * tolerance.bound("float32")
    for nothing in ({"depth": 0}, {"gain": -1}):
        with pytest.raises(InvalidInput, match="depth, gain"):
            tolerance.bound("float32", **nothing)
    settings = {"iterations": 3, "epsilon": 0.05}
    small = tolerance.codes_log_bound("float32", largest_score=0.01, **settings)
    assert small == tolerance.bound("float32", depth=12)
    large = tolerance.codes_log_bound("float32", largest_score=1.0, **settings)
    assert_close(large, 20 * small, precision="float64", what="bound of scores up to 1")


def test_log_error():
    codes = np.array([[0.5, 0.5, 1e-40]])
    assert tolerance.log_error(codes, codes) == 0.0
    half = tolerance.log_error(np.array([[0.25, 0.75, 0.0]]), codes)
    assert_close(half, math.log(2), precision="float64", what="half the code")
    assert tolerance.log_error(np.array([[0.0, 1.0, 0.0]]), codes) == math.inf
    assert tolerance.log_error(-codes, codes) == math.inf
    assert tolerance.log_error(codes[:, :2], codes) == math.inf


@pytest.mark.parametrize("rounding", PRECISIONS)
def test_close_is_as_close_as_the_bound(rounding):
    expected = np.linspace(-2.0, 1.0, 12).reshape(3, 4)
    bound = tolerance.bound(rounding, depth=2)
    near, far = expected.copy(), expected.copy()
    near[1, 2] += 0.9 * 2.0 * bound
    far[1, 2] += 1.1 * 2.0 * bound
    assert_close(near, expected, precision=rounding, depth=2, what="scores")
    with pytest.raises(AssertionError, match=r"scores: error .*, allowed .*worst at \(1, 2\)"):
        assert_close(far, expected, precision=rounding, depth=2, what="scores")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_close_refuses_what_is_not_finite(value):
    expected = np.ones((2, 2))
    actual = expected.copy()
    actual[0, 1] = value
    with pytest.raises(AssertionError, match=r"worst at \(0, 1\)"):
        assert_close(actual, expected, precision="bfloat16", depth=1000, what="x")
    with pytest.raises(AssertionError, match=r"shape \(2,\) against \(2, 2\)"):
        assert_close(actual[0], expected, precision="float64", what="x")


def test_codes_close():
    codes = np.array([[0.9, 0.1], [0.2, 0.8]])
    settings = {"precision": "float32", "iterations": 3, "epsilon": 0.05, "largest_score": 1.0, "what": "codes"}
    bound = tolerance.codes_log_bound("float32", iterations=3, epsilon=0.05, largest_score=1.0)
    changed = codes.copy()
    changed[1, 0] *= math.exp(0.9 * bound)
    assert_codes_close(changed, codes, **settings)
    changed[1, 0] *= math.exp(0.2 * bound)
    with pytest.raises(AssertionError, match=r"codes: logarithms .*worst at \(1, 0\)"):
        assert_codes_close(changed, codes, **settings)


def test_same_is_bit_for_bit():
    array = np.array([1.0, math.nan])
    assert_same(array, array.copy(), what="x")
    for other in (np.array([np.nextafter(1.0, 2.0), math.nan]), array.astype(np.float32), array[None]):
        with pytest.raises(AssertionError, match=r"x: .*bit for bit"):
            assert_same(other, array, what="x")


def test_cancelled_bias_is_measured_by_its_weight():
    expected = {"projection_head.0.bias": np.array([1e-17]), "projection_head.0.weight": np.array([[2.0]])}
    actual = expected | {"projection_head.0.bias": np.array([2e-8])}
    errors = gradient_errors(actual, expected)
    assert_close(errors["projection_head.0.bias"], 1e-8, precision="float64", what="2e-8 over 2")
    assert_gradients_close(actual, expected, precision="float32", what="gradients")
    with pytest.raises(AssertionError, match=r"gradients, projection_head\.0\.bias"):
        assert_gradients_close(actual, expected, precision="float64", what="gradients")
    with pytest.raises(AssertionError, match="on one side only"):
        assert_gradients_close({}, expected, precision="float64", what="gradients")


def test_trace_bounds_widen_with_what_has_happened():
    float64 = np.array([1.0, 1.0, 1.0, 1.0])
    float32 = np.array([1.0, 1.00001, 1.0, 1.0])
    spread = np.array([0.0, 0.0, 0.0, 0.01])
    assert trace_bounds(float32, float64, spread, precision="float64").tolist() == [tolerance.FLOAT64_BOUND] * 4
    bounds = trace_bounds(float32, float64, spread, precision="float32")
    assert_close(bounds, [1e-5, 1e-4, 1e-4, 0.03], precision="float64", what="bounds")
    nothing_yet = np.array([[math.nan], [1.0]])
    assert_trace(nothing_yet, nothing_yet, nothing_yet, np.zeros(2), precision="float64", what="queue")
    # A bound of 1 or more tells nothing: there the values need only be numbers.
    wide = np.full(4, 1e6)
    assert_trace(float64 + 5, float32, float64, wide, precision="bfloat16", what="loss")
    for wrong in (float64 * math.nan, float64[:, None]):
        with pytest.raises(AssertionError, match=r"loss, step 0: (not finite|shape)"):
            assert_trace(wrong, float32, float64, wide, precision="bfloat16", what="loss")
    with pytest.raises(AssertionError, match="queue, step 0: must not exist yet"):
        assert_trace(np.ones((2, 1)), nothing_yet, nothing_yet, np.zeros(2), precision="float64", what="queue")
    with pytest.raises(AssertionError, match="loss, step 1: error"):
        assert_trace([1.0, 1.1], float32[:2], float64[:2], spread[:2], precision="float64", what="loss")


def test_finite_difference():
    assert_finite_difference(1.0, 1.0 + 0.9 * FINITE_DIFFERENCE, scale=1.0, what="w")
    with pytest.raises(AssertionError, match=r"w: gradient 1\.0, central difference"):
        assert_finite_difference(1.0, 1.1, scale=1.0, what="w")
