"""What every probe asks of its input, and the unit rows that cosines are made of."""

from __future__ import annotations

import numpy as np

from swav_spec.errors import require


def check_features(features: np.ndarray, what: str, *, columns: int | None = None) -> np.ndarray:
    """The features as an array [N, F] of float32 or float64; InvalidInput if not finite or of another shape."""
    features = np.asarray(features)
    shape = features.shape
    require(len(shape) == 2 and min(shape) >= 1, f"{what}' shape", shape, "[N, F], both >= 1")
    allowed = f"[N, {columns}], as wide as the train features"
    require(columns is None or shape[1] == columns, f"{what}' shape", shape, allowed)
    require(features.dtype.kind in "fiu", f"{what}' type", str(features.dtype), "real numbers")
    features = features if features.dtype == np.float64 else features.astype(np.float32)
    require(bool(np.isfinite(features).all()), what, "not finite", "finite numbers")
    return features


def check_labelled(features: np.ndarray, labels: np.ndarray, classes: int, what: str) -> np.ndarray:
    """The labels as int64 [N]; raises InvalidInput unless there is one for each feature row, in 0..classes-1."""
    labels = np.asarray(labels)
    wanted = f"[{len(features)}] integers, one for each row of features"
    fits = labels.dtype.kind in "iu" and labels.shape == features.shape[:1]
    require(fits, f"{what} labels' shape, type", (labels.shape, str(labels.dtype)), wanted)
    labels = labels.astype(np.int64)
    span = (int(labels.min()), int(labels.max()))
    require(span[0] >= 0 and span[1] < classes, f"{what} labels' range", span, f"within 0..{classes - 1}")
    return labels


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Each row over its Euclidean norm, float64; a zero row stays zero."""
    # Divided by their largest entry first, so that no square overflows or vanishes.
    largest = np.abs(features).max(axis=1, keepdims=True).astype(np.float64)
    rows = features / np.where(largest > 0, largest, 1)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1)  # a norm is 0, or at least 1 now
