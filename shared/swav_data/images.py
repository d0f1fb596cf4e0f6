"""Decoded images in memory: one canvas for all, each with its own size and label."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np

from swav_spec.errors import InvalidInput, require


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N labelled images. Its arrays are made read-only: they may be shared by everybody who asks for them.

    Attributes:
        name: of the data set and its split, for messages and records.
        images: [N, H, W, 3] uint8, RGB; an image smaller than H x W lies in the top left corner, the rest is 0.
        heights, widths: [N] int64, of the images in pixels, in 1..H and 1..W.
        labels: [N] int64, positions in `classes`.
        classes: names of the classes.
        skipped: one sentence for each image that could not be read and was left out.

    Raises:
        InvalidInput: shapes do not match, there is no image or no class, or a size or label is out of range.
    """

    name: str
    images: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("heights", "widths", "labels"):
            # A view of its own, so that making it read-only leaves the caller's array as it was.
            object.__setattr__(self, field, np.asarray(getattr(self, field), dtype=np.int64).view())
        object.__setattr__(self, "images", np.asarray(self.images).view())
        where, shape = self.name, self.images.shape
        require(self.images.dtype == np.uint8, f"{where}: images' type", str(self.images.dtype), "uint8")
        require(len(shape) == 4 and shape[3] == 3 and min(shape) >= 1, f"{where}: images' shape", shape, "[N, H, W, 3]")
        for field in ("heights", "widths", "labels"):
            lengths = getattr(self, field).shape
            require(lengths == shape[:1], f"{where}: shape of {field}", lengths, f"[{shape[0]}], one for each image")
        _check_range(self.heights, 1, shape[1], f"{where}: height", "the canvas's")
        _check_range(self.widths, 1, shape[2], f"{where}: width", "the canvas's")
        check_labels(self.labels, self.classes, where)
        for field in ("images", "heights", "widths", "labels"):
            getattr(self, field).flags.writeable = False

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: np.ndarray, *, name: str | None = None) -> ImageSet:
        """The images at these positions, in this order (a copy), under their old name or a new one."""
        return replace(
            self,
            name=name or self.name,
            images=self.images[rows],
            heights=self.heights[rows],
            widths=self.widths[rows],
            labels=self.labels[rows],
        )


class Labelled(Protocol):
    """What images in memory and images yet to be decoded have in common."""

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...


Images_co = TypeVar("Images_co", bound=Labelled, covariant=True)


@dataclass(frozen=True)
class Splits(Generic[Images_co]):
    """The parts of a data set: each an ImageSet, or an EncodedSet that is yet to be decoded.

    Attributes:
        train: what is learnt from.
        validation: what choices are made on, where the data set has such a part.
        test: what is reported, where the data set has such a part.
    """

    train: Images_co
    validation: Images_co | None = None
    test: Images_co | None = None

    def __post_init__(self) -> None:
        check_same_classes(self.train, self.validation, self.test)

    @property
    def evaluation(self) -> Images_co:
        """The test images, or where there are none the validation images.

        Raises:
            InvalidInput: there are neither.
        """
        held_out = self.validation if self.test is None else self.test
        if held_out is None:
            raise InvalidInput(f"{self.train.name}: has neither test nor validation images to evaluate on")
        return held_out


def check_labels(labels: np.ndarray, classes: tuple[str, ...], where: str) -> None:
    """Raises InvalidInput unless there are distinct classes and every label is one of their positions."""
    require(len(classes) >= 1, f"{where}: classes", classes, "at least one")
    require(len(set(classes)) == len(classes), f"{where}: classes", classes, "different names")
    _check_range(labels, 0, len(classes) - 1, f"{where}: label", "the classes'")


def check_same_classes(train: Labelled, *others: Labelled | None) -> None:
    """Raises InvalidInput unless all splits have the training split's classes, in its order."""
    for other in others:
        if other is not None:
            allowed = f"{train.classes}, as in training"
            require(other.classes == train.classes, f"{other.name}: classes", other.classes, allowed)


def _check_range(values: np.ndarray, low: int, high: int, field: str, whose: str) -> None:
    outside = (values < low) | (values > high)
    row = int(outside.argmax())
    require(not outside.any(), f"{field} of row {row}", int(values[row]), f"in {low}..{high}, {whose} range")
