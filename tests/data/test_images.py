"""Sets of images check themselves, and cannot be changed by those who share them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from swav_data.images import ImageSet, Splits
from swav_spec.errors import InvalidInput


def image_set(**changes):
    fields = {
        "name": "some",
        "images": np.zeros((3, 4, 5, 3), dtype=np.uint8),
        "heights": np.array([4, 1, 2]),
        "widths": np.array([5, 1, 2]),
        "labels": np.array([0, 1, 1]),
        "classes": ("a", "b"),
    }
    return ImageSet(**(fields | changes))


def test_a_good_set_keeps_what_it_was_given():
    some = image_set(labels=[1, 0, 1])
    assert len(some) == 3
    assert some.labels.dtype == some.heights.dtype == some.widths.dtype == np.int64
    assert some.labels.tolist() == [1, 0, 1]
    assert some.skipped == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": np.zeros((3, 4, 5, 3))}, "images' type = 'float64': must be uint8"),
        ({"images": np.zeros((3, 4, 5, 1), dtype=np.uint8)}, "images' shape"),
        ({"images": np.zeros((3, 4, 5), dtype=np.uint8)}, "images' shape"),
        ({"images": np.zeros((2, 4, 5, 3), dtype=np.uint8)}, "shape of heights"),
        ({"heights": np.array([4, 0, 2])}, "height of row 1 = 0"),
        ({"heights": np.array([4, 4, 5])}, "height of row 2 = 5"),
        ({"widths": np.array([6, 1, 2])}, "width of row 0 = 6"),
        ({"labels": np.array([0, 2, 1])}, "label of row 1 = 2: must be in 0..1"),
        ({"labels": np.array([0, 1, -1])}, "label of row 2 = -1"),
        ({"labels": np.array([0, 1])}, "shape of labels"),
        ({"classes": ()}, "classes = ()"),
        ({"classes": ("a", "a")}, "different names"),
    ],
)
def test_bad_fields_are_named(changes, says):
    with pytest.raises(InvalidInput) as caught:
        image_set(**changes)
    assert str(caught.value).startswith("some: ")
    assert says in str(caught.value)


def test_arrays_are_read_only_and_the_callers_are_not():
    labels = np.array([0, 1, 1])
    some = image_set(labels=labels)
    for field in ("images", "heights", "widths", "labels"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(some, field)[0] = 0
    labels[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        some.name = "other"


def test_take_keeps_rows_together():
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 5, 3), dtype=np.uint8)
    part = image_set(images=images).take(np.array([2, 0]), name="part")
    assert part.name == "part"
    assert part.images[:, 0, 0, 0].tolist() == [2, 0]
    assert (part.heights.tolist(), part.widths.tolist(), part.labels.tolist()) == ([2, 4], [2, 5], [1, 0])


def test_evaluation_is_test_then_validation_then_an_error():
    train, validation, test = image_set(name="train"), image_set(name="validation"), image_set(name="test")
    assert Splits(train, validation, test).evaluation is test
    assert Splits(train, validation).evaluation is validation
    with pytest.raises(InvalidInput, match="neither test nor validation"):
        _ = Splits(train).evaluation


def test_splits_of_different_classes_are_refused():
    with pytest.raises(InvalidInput, match="test: classes = "):
        Splits(image_set(), test=image_set(name="test", classes=("b", "a")))
