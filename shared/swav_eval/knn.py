"""Weighted nearest neighbours on frozen features (Wu et al. 2018, arXiv 1805.01978, section 3.4).

With unit features f, a test image votes for class c by the sum of exp(<f, f_i> / T) over those of its k nearest
training images i that have label c.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from swav_eval.checks import check_features, check_labelled, unit_rows
from swav_spec.errors import require

#: Entries of the similarity matrix that are held at once: 64 MiB in float32.
_CHUNK_ENTRIES = 2**24


class Prediction(NamedTuple):
    """What a probe says of M test images.

    Attributes:
        scores: [M, C] float64; the larger, the likelier; comparable within a row only.
        classes: [M] int64, the position of the largest score (the first of equals).
    """

    scores: np.ndarray
    classes: np.ndarray


def knn(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> Prediction:
    """Votes of the k nearest training images by cosine similarity.

    Args:
        train_features: [N, F], any real numbers; rows are divided by their norm (a zero row stays zero).
        train_labels: [N] integers in 0..classes-1.
        test_features: [M, F].
        classes: C.
        k: neighbours, in 1..N.
        temperature: T > 0; the smaller, the more the nearest ones count.

    Returns:
        A row's scores are its votes times one common factor, which keeps them finite for every temperature.

    Raises:
        InvalidInput: shapes do not match, a value is not finite, or k, T or a label is out of range.
    """
    train_features = check_features(train_features, "train features")
    test_features = check_features(test_features, "test features", columns=train_features.shape[1])
    train_labels = check_labelled(train_features, train_labels, classes, "train")
    require(1 <= k <= len(train_features), "k", k, f"in 1..{len(train_features)}, the number of training features")
    require(0 < temperature < np.inf, "temperature", temperature, "greater than 0")

    bank = unit_rows(train_features).astype(np.float32).T
    queries = unit_rows(test_features).astype(np.float32)
    rows = max(1, _CHUNK_ENTRIES // len(train_features))
    scores = np.empty((len(queries), classes))
    for start in range(0, len(queries), rows):
        similarity = queries[start : start + rows] @ bank
        nearest = np.argpartition(similarity, -k, axis=1)[:, -k:]
        near = np.take_along_axis(similarity, nearest, axis=1).astype(np.float64)
        weights = np.exp((near - near.max(axis=1, keepdims=True)) / temperature)
        cells = np.arange(len(near))[:, None] * classes + train_labels[nearest]
        votes = np.bincount(cells.ravel(), weights.ravel(), minlength=len(near) * classes)
        scores[start : start + rows] = votes.reshape(len(near), classes)
    return Prediction(scores, scores.argmax(axis=1))


def top_share(scores: np.ndarray, labels: np.ndarray, top: int) -> float:
    """Share of rows whose label is among their `top` largest scores; of equal scores the earlier class counts first.

    Args:
        scores: [M, C], M >= 1.
        labels: [M] integers in 0..C-1.
        top: in 1..C.
    """
    require(1 <= top <= scores.shape[1], "top", top, f"in 1..{scores.shape[1]}, the number of classes")
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    rank = (scores > own).sum(axis=1) + ((scores == own) & earlier).sum(axis=1)
    return float((rank < top).mean())
