"""Comparisons that say what differs, by how much, by how much it may, and where; on the rule of tolerance.py.

The one other home of tolerances: rules of the golden files, of pixels and of measured quantities have their
named functions here, so that no test carries a literal of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from swav_spec import tolerance
from swav_spec.config import Precision

#: Bias in front of a batch normalisation -> the weight beside it.
CANCELLED = MappingProxyType({"projection_head.0.bias": "projection_head.0.weight"})
#: Golden files in float32: independent re-implementations differ from them by at most 2e-6.
GOLDEN_FLOAT32 = 1e-5
#: Traces of training in float32: this many times what float32 and float64 differ by in the file itself.
TRACE_FACTOR = 10.0
#: And this many times the spread of runs that start some roundings apart.
SPREAD_FACTOR = 3.0
#: Views in float32: some 60 roundings of weights, blends and a division by the normalisation's .22.
VIEWS_FLOAT32 = 2e-5
#: 8-bit levels, mean and largest, that PIL's rounding between its passes explains for its blur alone.
BLUR_LEVELS = (1.3, 4.0)
#: Mean over many views of a pipeline that rounds to bytes, hue included, after each step, in 8-bit levels.
PIPELINE_LEVELS = 2.0
#: colorsys and this hue shift take other roads through HSV.
HUE_TOLERANCE = 2e-6
#: Central differences with steps of 1e-6 of a float64 function, over the largest gradient.
FINITE_DIFFERENCE = 1e-6
#: A resize in float64 against an independent one in float64.
RESIZE_FLOAT64 = 1e-12


def maths_precision(precision: Precision) -> Precision:
    """What Sinkhorn, the loss, the queue and the optimiser compute in: float32 where the network has less."""
    return precision if precision == "float64" else "float32"


def dtype_of(precision: Precision) -> type[np.floating]:
    """NumPy type in which inputs of that precision's maths are given."""
    return np.float64 if precision == "float64" else np.float32


def is_low(precision: Precision) -> bool:
    """Whether the network's products are of less than float32: tf32 and bfloat16."""
    return precision != maths_precision(precision)


def assert_within(actual: np.ndarray, expected: np.ndarray, bound: float, *, scale: float = 0.0, what: str) -> None:
    """Asserts that `tolerance.error` is at most `bound`; the message names the place of the largest difference."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    found = tolerance.error(actual, expected, scale=scale)
    if not found <= bound:
        raise AssertionError(f"{what}: error {found:.3g}, allowed {bound:.3g}; {_worst(actual, expected)}")


def assert_close(
    actual: np.ndarray,
    expected: np.ndarray,
    *,
    precision: Precision,
    depth: float = 1,
    gain: float = 1,
    scale: float = 0.0,
    what: str,
) -> None:
    """Asserts `tolerance.error`, with that scale, within `tolerance.bound` of precision, depth and gain."""
    assert_within(actual, expected, tolerance.bound(precision, depth=depth, gain=gain), scale=scale, what=what)


def assert_codes_close(
    actual: np.ndarray,
    expected: np.ndarray,
    *,
    precision: Precision,
    iterations: int,
    epsilon: float,
    largest_score: float,
    what: str,
) -> None:
    """Asserts that the logarithms of codes agree within `tolerance.codes_log_bound`."""
    allowed = tolerance.codes_log_bound(precision, iterations=iterations, epsilon=epsilon, largest_score=largest_score)
    found = tolerance.log_error(actual, expected)
    if not found <= allowed:
        place = _worst(np.asarray(actual), np.asarray(expected), logarithm=True)
        raise AssertionError(f"{what}: logarithms of codes differ by {found:.3g}, allowed {allowed:.3g}; {place}")


def assert_same(actual: np.ndarray, expected: np.ndarray, *, what: str) -> None:
    """Asserts equality bit for bit, NaNs in the same places included."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.dtype != expected.dtype or actual.shape != expected.shape:
        raise AssertionError(
            f"{what}: {actual.dtype} {actual.shape} must equal {expected.dtype} {expected.shape} bit for bit"
        )
    if actual.tobytes() != expected.tobytes():
        raise AssertionError(f"{what}: must be equal bit for bit; {_worst(actual, expected)}")


def golden_bound(precision: Precision) -> float:
    """How far from golden files a to f: 1e-9 in float64, 1e-5 below (their maths is float32 or wider)."""
    return tolerance.FLOAT64_BOUND if precision == "float64" else GOLDEN_FLOAT32


def assert_golden(actual: np.ndarray, expected: np.ndarray, *, precision: Precision, what: str) -> None:
    """Asserts agreement with an array of golden files a to f."""
    assert_within(actual, expected, golden_bound(precision), what=what)


def assert_golden_scores(actual: np.ndarray, expected: np.ndarray, *, precision: Precision, what: str) -> None:
    """The same of scores, which are a product of the network: in TF32 both its factors may be rounded."""
    tf32 = precision == "tf32"
    assert_within(actual, expected, tolerance.bound("tf32", depth=2) if tf32 else golden_bound(precision), what=what)


def trace_bounds(float32: np.ndarray, float64: np.ndarray, spread: np.ndarray, *, precision: Precision) -> np.ndarray:
    """How far each step of a quantity [T, ...] may be from a golden trace.

    In float64 1e-9. In float32 the largest so far of 1e-5, 10 x the error between the file's own float32 and float64,
    and 3 x the spread of float64 runs that start some roundings apart: where an activation lies within a few roundings
    of zero, float32 runs part ways, and the file has but one of them. Below float32 as many times more as the unit
    roundoff is larger.

    Args:
        float32, float64: [T, ...] as recorded; steps without values (NaN) have no gap.
        spread: [T] largest error among nudged float64 runs.
        precision: that the run was computed in.

    Returns:
        [T] bounds of `tolerance.error`.
    """
    if precision == "float64":
        return np.full(len(float64), tolerance.FLOAT64_BOUND)
    coarser = tolerance.UNIT_ROUNDOFF[precision] / tolerance.UNIT_ROUNDOFF["float32"]
    gaps = [0.0 if np.isnan(b).all() else tolerance.error(a, b) for a, b in zip(float32, float64, strict=True)]
    widest = np.maximum(TRACE_FACTOR * np.array(gaps), SPREAD_FACTOR * np.asarray(spread))
    return coarser * np.maximum(GOLDEN_FLOAT32, np.maximum.accumulate(widest))


def assert_trace(
    actual: Sequence[np.ndarray],
    float32: np.ndarray,
    float64: np.ndarray,
    spread: np.ndarray,
    *,
    precision: Precision,
    what: str,
) -> None:
    """Asserts each step of a quantity [T, ...] of a golden trace within `trace_bounds`; NaNs mark absent values.

    A bound of 1 or more, which low precisions soon come to, tells little: there the values must be finite, too.
    """
    expected = float64 if precision == "float64" else float32
    assert len(actual) == len(expected), f"{what}: {len(actual)} steps, the file has {len(expected)}"
    bounds = trace_bounds(float32, float64, spread, precision=precision)
    for step, (value, wanted, bound) in enumerate(zip(actual, expected, bounds, strict=True)):
        if np.isnan(wanted).all():
            assert np.isnan(value).all(), f"{what}, step {step}: must not exist yet"
            continue
        if bound >= 1:  # infinite ones would let anything through
            assert np.shape(value) == wanted.shape, f"{what}, step {step}: shape {np.shape(value)}, not {wanted.shape}"
            assert np.isfinite(value).all(), f"{what}, step {step}: not finite"
        assert_within(value, wanted, float(bound), what=f"{what}, step {step}")


def gradient_scales(gradients: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The magnitude that each tensor's rounding errors are relative to: its largest value.

    A bias in front of a batch normalisation has a gradient of exactly 0, which floating point shows as the rounding
    of large terms that cancel; its layer's weights tell how large.
    """
    largest = {name: float(np.abs(np.asarray(value)).max()) for name, value in gradients.items()}
    for bias, weight in CANCELLED.items():
        if bias in largest and weight in largest:
            largest[bias] = max(largest[bias], largest[weight])
    return largest


def gradient_errors(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Largest difference of each tensor over its `gradient_scales`."""
    scales = gradient_scales(expected)
    return {
        name: tolerance.error(actual[name], wanted)
        * (float(np.abs(np.asarray(wanted)).max()) or 1.0)
        / (scales[name] or 1.0)
        for name, wanted in expected.items()
    }


def assert_gradients_close(
    actual: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    *,
    precision: Precision,
    depth: float = 1,
    gain: float = 1,
    what: str,
) -> None:
    """Asserts the same tensors, and each one's error over its `gradient_scales` within `tolerance.bound`."""
    assert sorted(actual) == sorted(expected), f"{what}: {sorted(set(actual) ^ set(expected))} on one side only"
    allowed = tolerance.bound(precision, depth=depth, gain=gain)
    for name, found in gradient_errors(actual, expected).items():
        if not found <= allowed:
            place = _worst(np.asarray(actual[name]), np.asarray(expected[name]))
            raise AssertionError(f"{what}, {name}: error {found:.3g}, allowed {allowed:.3g}; {place}")


def assert_finite_difference(slope: float, difference: float, *, scale: float, what: str) -> None:
    """Asserts that a directional derivative equals a central difference, over the largest gradient's length."""
    found = abs(slope - difference) / scale
    if not found <= FINITE_DIFFERENCE:
        raise AssertionError(
            f"{what}: gradient {slope!r}, central difference {difference!r}: {found:.3g} of the largest gradient, "
            f"allowed {FINITE_DIFFERENCE:.3g}"
        )


def assert_adam_close(
    actual: np.ndarray,
    before: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    lr: float,
    count: int,
    precision: Precision,
    what: str,
) -> None:
    """Asserts one step of Adam from its moments.

    p - lr m' / (sqrt(v') + 1e-8), m' = m / (1 - .9^t), v' = v / (1 - .999^t).

    Kingma and Ba (2015), algorithm 1. The optimiser is float32 or wider, whatever the network's precision.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    corrected = 1 - 0.999**count
    expected = before - lr * (first / (1 - 0.9**count)) / (np.sqrt(second / corrected) + 1e-8)
    # 1 - .999^t loses digits to cancellation, and enters by its root.
    bound = tolerance.bound(maths_precision(precision), depth=4, gain=max(1.0, 0.5 / corrected))
    assert_within(actual, expected, bound, what=what)


def assert_views_close(actual: np.ndarray, expected: np.ndarray, *, precision: Precision, what: str) -> None:
    """Asserts that normalised views agree: 1e-9 in float64, 2e-5 in every other precision (views never use less)."""
    bound = tolerance.FLOAT64_BOUND if precision == "float64" else VIEWS_FLOAT32
    assert_within(actual, expected, bound, what=what)


def assert_levels(
    actual: np.ndarray, expected: np.ndarray, *, mean: float, largest: float = math.inf, what: str
) -> None:
    """Asserts that pixels in [0, 255] differ by at most `mean` on average and `largest` anywhere."""
    difference = np.abs(np.asarray(actual, dtype=np.float64) - np.asarray(expected, dtype=np.float64))
    if not (difference.mean() <= mean and difference.max() <= largest):
        raise AssertionError(
            f"{what}: differs by {difference.mean():.3g} levels on average (allowed {mean}) and "
            f"{difference.max():.3g} at most (allowed {largest}); {_worst(np.asarray(actual), np.asarray(expected))}"
        )


def _worst(actual: np.ndarray, expected: np.ndarray, *, logarithm: bool = False) -> str:
    """Where two arrays differ most, or why they cannot be compared."""
    if actual.shape != expected.shape:
        return f"shape {actual.shape} against {expected.shape}"
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(all="ignore"):
        if logarithm:
            difference = np.where(b > tolerance.SMALLEST_CODE, np.abs(np.log(a) - np.log(b)), 0.0)
        else:
            difference = np.abs(a - b)
    # A value that is not a number is the worst of all.
    difference = np.where(np.isfinite(difference), difference, np.inf)
    place = np.unravel_index(int(np.argmax(difference)), difference.shape)
    return f"worst at {tuple(int(i) for i in place)}: {a[place]!r} against {b[place]!r}"
