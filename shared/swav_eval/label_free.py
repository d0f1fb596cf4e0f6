"""Figures of frozen features that need no labels, so that runs can be compared without a probe.

RankMe (Garrido et al. 2023, arXiv 2210.02885, equation 1), and uniformity (Wang & Isola 2020, arXiv 2005.10242,
section 4.1.2).
"""

from __future__ import annotations

import numpy as np

from swav_eval.checks import check_features, unit_rows
from swav_spec.errors import require

_CHUNK_ROWS = 1024


def rankme(features: np.ndarray) -> float:
    """Effective rank: exp(-sum p log p), p = s / sum(s) + 1e-7 over the singular values s of the features.

    Args:
        features: [N, F], as they are: neither centred nor normalised.

    Returns:
        In about 1 (all features on one line: collapse) to min(N, F); 0 for features that are all zero.

    Raises:
        InvalidInput: not [N, F], or not finite.
    """
    features = check_features(features, "features").astype(np.float64)
    largest = np.abs(features).max()
    if largest == 0:
        return 0.0
    singular = np.linalg.svd(features / largest, compute_uv=False)
    share = singular / singular.sum() + 1e-7
    return float(np.exp(-(share * np.log(share)).sum()))


def uniformity(features: np.ndarray, *, t: float = 2.0, rows: int = 4096) -> float:
    """Log of the mean of exp(-t |f_i - f_j|^2) over pairs i < j of unit features.

    Args:
        features: [N, F], N >= 2; rows are divided by their norm.
        t: > 0.
        rows: at most so many rows are used, evenly spaced; the pairs grow with their square.

    Returns:
        0 if all features point the same way; -2 t in the limit of many features spread evenly over a sphere of many
        dimensions.

    Raises:
        InvalidInput: not [N, F] with N >= 2, not finite, or t or rows is out of range.
    """
    features = check_features(features, "features")
    require(len(features) >= 2, "features' rows", len(features), "at least 2")
    require(0 < t < np.inf, "t", t, "greater than 0")
    require(rows >= 2, "rows", rows, "at least 2")
    if len(features) > rows:
        features = features[np.linspace(0, len(features) - 1, rows).astype(np.int64)]
    unit = unit_rows(features)
    squares = np.square(unit).sum(axis=1)
    total = 0.0
    for start in range(0, len(unit), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        distance = squares[part, None] + squares - 2 * unit[part] @ unit.T
        total += np.exp(-t * np.maximum(distance, 0)).sum()
    count = len(unit)
    pairs = (total - count) / (count * (count - 1))  # without each row's distance to itself, e^0
    return float(np.log(max(pairs, np.finfo(np.float64).tiny)))
