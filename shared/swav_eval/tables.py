"""Where a probe is right and wrong, class by class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from swav_spec.errors import require


class ClassRow(NamedTuple):
    """One class of a test set.

    Attributes:
        name: of the class.
        samples: test images of it.
        recall: share of them that were called so; None where there are none.
        precision: share of right ones among the images that were called so; None where none was.
        confused_with: the other class they were most often taken for; None where that never happened.
    """

    name: str
    samples: int
    recall: float | None
    precision: float | None
    confused_with: str | None


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """How often each class was taken for each.

    Args:
        labels, predictions: [M] integers in 0..classes-1.
        classes: C.

    Returns:
        [C, C] int64; row: the label, column: the prediction.

    Raises:
        InvalidInput: shapes do not match, or a number is out of range.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    same = labels.ndim == 1 and labels.shape == predictions.shape
    require(same, "predictions' shape", predictions.shape, f"{labels.shape}, as the labels'")
    for what, values in (("labels", labels), ("predictions", predictions)):
        inside = values.dtype.kind in "iu" and bool(((values >= 0) & (values < classes)).all())
        require(inside, what, values, f"integers in 0..{classes - 1}")
    cells = labels.astype(np.int64) * classes + predictions.astype(np.int64)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def per_class(matrix: np.ndarray, names: tuple[str, ...]) -> list[ClassRow]:
    """One row for each class of a confusion matrix [C, C].

    Raises:
        InvalidInput: there is not one name for each class.
    """
    matrix = np.asarray(matrix)
    require(matrix.shape == (len(names), len(names)), "matrix' shape", matrix.shape, f"[{len(names)}, {len(names)}]")
    rows = []
    for position, name in enumerate(names):
        right = int(matrix[position, position])
        samples, called = int(matrix[position].sum()), int(matrix[:, position].sum())
        wrong = matrix[position].copy()
        wrong[position] = 0
        rows.append(
            ClassRow(
                name=name,
                samples=samples,
                recall=right / samples if samples else None,
                precision=right / called if called else None,
                confused_with=names[int(wrong.argmax())] if wrong.any() else None,
            )
        )
    return rows
