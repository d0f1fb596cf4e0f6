"""Confusion matrices and what is read from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from swav_eval.tables import confusion, per_class
from swav_spec.errors import InvalidInput

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


@given(pairs=PAIRS)
def test_agrees_with_scikit_learn(pairs):
    labels, predictions = np.array(pairs).T
    matrix = confusion(labels, predictions, 4)
    assert np.array_equal(matrix, confusion_matrix(labels, predictions, labels=range(4)))
    options = {"labels": range(4), "average": None, "zero_division": 0}
    rows = per_class(matrix, ("a", "b", "c", "d"))
    assert [row.name for row in rows] == ["a", "b", "c", "d"]
    assert [row.recall or 0 for row in rows] == pytest.approx(recall_score(labels, predictions, **options))
    assert [row.precision or 0 for row in rows] == pytest.approx(precision_score(labels, predictions, **options))
    assert [row.samples for row in rows] == [int((labels == label).sum()) for label in range(4)]


def test_absent_classes_have_no_shares_and_the_worst_confusion_is_named():
    a, b, c = per_class(confusion([0, 0, 0, 0, 1], [1, 1, 0, 2, 1], 4)[:3, :3], ("a", "b", "c"))
    assert (a.recall, a.precision, a.confused_with) == (0.25, 1.0, "b")
    assert (b.recall, b.precision, b.confused_with) == (1.0, 1 / 3, None)
    assert (c.samples, c.recall, c.precision, c.confused_with) == (0, None, 0.0, None)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: confusion([0, 1], [0], 2), "predictions' shape"),
        (lambda: confusion([0, 2], [0, 1], 2), "labels = "),
        (lambda: confusion([0, 1], [0, -1], 2), "predictions = "),
        (lambda: confusion([0.0, 1.0], [0, 1], 2), "labels = "),
        (lambda: per_class(np.zeros((2, 2)), ("a",)), "matrix' shape"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InvalidInput, match=says):
        call()
