"""The one rule from which every comparison gets its tolerance.

The error of an array is max|a - b| / max|b|. In float64 it may be 1e-9: enough for the rounding of a whole
training trace, far below any change of the method. In lower precisions it is a multiple of the unit roundoff,
by how many roundings lie in a row (depth) and how much the computation magnifies them (gain).
"""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np

from swav_spec.config import Precision
from swav_spec.errors import require

#: Half the distance from 1 to the next number.
UNIT_ROUNDOFF = MappingProxyType({"float64": 2.0**-53, "float32": 2.0**-24, "tf32": 2.0**-11, "bfloat16": 2.0**-8})
FLOAT64_BOUND = 1e-9
#: Times a first-order worst case; the worst of 3,000 random draws used 3.0 of this for codes.
SAFETY = 8.0
#: Codes below this are not compared on a log scale: float32 cannot hold their neighbours.
SMALLEST_CODE = 1e-30


def error(actual: np.ndarray, expected: np.ndarray, *, scale: float = 0.0) -> float:
    """max|actual - expected| / max|expected|; infinite where shapes differ or a value is not finite.

    Against an array of zeros the plain largest difference counts.

    Args:
        actual, expected: arrays.
        scale: of what was added up to make them, where that is more than the sum: it is divided by instead.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        return math.inf
    if actual.size == 0:
        return 0.0
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()
    if not np.isfinite(difference):
        return math.inf
    return float(difference / (max(np.abs(expected.astype(np.float64)).max(), scale) or 1.0))


def bound(precision: Precision, *, depth: float = 1, gain: float = 1) -> float:
    """Largest `error` that rounding explains: 1e-9 in float64, else SAFETY * depth * gain * unit roundoff.

    Args:
        precision: that the worse of the two sides was computed in.
        depth: roundings one after another that can add up.
        gain: relative change of the result over relative change of what is rounded.
    """
    require(depth > 0 and gain > 0, "depth, gain", (depth, gain), "greater than 0")
    if precision == "float64":
        return FLOAT64_BOUND
    return SAFETY * depth * gain * UNIT_ROUNDOFF[precision]


def codes_log_bound(precision: Precision, *, iterations: int, epsilon: float, largest_score: float) -> float:
    """Largest |change of log q|, q > SMALLEST_CODE: scores rounded by u move it by 4 T max|S| u / epsilon."""
    logit = max(largest_score / epsilon, 1.0)
    return bound(precision, depth=4 * iterations, gain=logit)


def log_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest |log actual - log expected| where expected > SMALLEST_CODE; infinite for bad shapes or values."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if actual.shape != expected.shape or not np.isfinite(actual).all() or (actual < 0).any():
        return math.inf
    counted = expected > SMALLEST_CODE
    if not counted.any():
        return 0.0
    with np.errstate(divide="ignore"):
        return float(np.abs(np.log(actual[counted]) - np.log(expected[counted])).max())
