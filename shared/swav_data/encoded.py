"""Labelled images that are not decoded yet, and their way into memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np

from swav_data.canvas import Canvas, place
from swav_data.images import ImageSet, check_labels
from swav_spec.errors import InvalidInput, require

OnBadImage = Literal["error", "skip"]


class Encoded(NamedTuple):
    """An image that is yet to be decoded: the bytes, or the file that they are in.

    Attributes:
        where: file, and row if it has rows; for messages.
        path: of the file, where `data` is None.
        data: the bytes.
    """

    where: str
    path: str | None = None
    data: bytes | None = None

    def read(self) -> bytes:
        """The bytes.

        Raises:
            InvalidInput: the file cannot be read.
        """
        if self.path is None:
            if self.data is None:
                raise InvalidInput(f"{self.where}: holds no bytes of an image")
            return self.data
        try:
            return Path(self.path).read_bytes()
        except OSError as error:
            raise InvalidInput(f"{self.where}: cannot be read ({error.strerror or error})") from error


class Files(Protocol):
    """Where encoded images come from, by position."""

    def __getitem__(self, position: int, /) -> Encoded:
        """The image there."""


class _Chosen:
    """Some of the files, by their positions."""

    def __init__(self, files: Files, positions: np.ndarray) -> None:
        self.files = files
        self.positions = positions

    def __getitem__(self, position: int) -> Encoded:
        return self.files[int(self.positions[position])]


@dataclass(frozen=True, eq=False)
class EncodedSet:
    """N labelled images, each a file or some bytes.

    Attributes:
        name: of the data set and its split, for messages and records.
        files: where they come from.
        labels: [N] int64, positions in `classes`.
        classes: names of the classes.
        skipped: one sentence for each image that could not be decoded and was left out.

    Raises:
        InvalidInput: there is no image or no class, or a label is out of range.
    """

    name: str
    files: Files
    labels: np.ndarray
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", np.asarray(self.labels, dtype=np.int64))
        require(self.labels.ndim == 1 and len(self.labels) >= 1, f"{self.name}: images", len(self.labels), "at least 1")
        check_labels(self.labels, self.classes, self.name)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> Encoded:
        return self.files[row]

    def take(self, rows: np.ndarray) -> EncodedSet:
        """The images at these positions, in this order."""
        return replace(self, files=_Chosen(self.files, rows), labels=self.labels[rows])

    def without(self, bad: dict[int, str]) -> EncodedSet:
        """The set without these rows, each with the sentence that says why; the others keep their order.

        Raises:
            InvalidInput: nothing is left.
        """
        if len(bad) == len(self):
            raise InvalidInput(f"{self.name}: none of its {len(self)} images can be decoded; the first: {bad[0]}")
        good = np.array([row for row in range(len(self)) if row not in bad])
        skipped = self.skipped + tuple(bad[row] for row in sorted(bad))
        return replace(self.take(good), skipped=skipped)


def check_on_bad_image(on_bad_image: str) -> None:
    """Raises InvalidInput unless it is one of OnBadImage."""
    allowed = get_args(OnBadImage)
    require(on_bad_image in allowed, "on_bad_image", on_bad_image, "one of " + ", ".join(allowed))


def decoded(encoded: EncodedSet, canvas: Canvas, *, on_bad_image: OnBadImage = "error") -> ImageSet:
    """All images in memory, on a canvas as large as the tallest and the widest of them need.

    Args:
        encoded: what to decode.
        canvas: bounds on an image's sides.
        on_bad_image: "error" stops at the first image that cannot be decoded; "skip" leaves such images out and
            names them in `skipped`.

    Raises:
        InvalidInput: an image cannot be decoded, or with "skip" none can.
    """
    from swav_data.decode import decode  # Pillow is imported when there is something to decode

    check_on_bad_image(on_bad_image)
    images: list[np.ndarray] = []
    bad: dict[int, str] = {}
    for row in range(len(encoded)):
        try:
            images.append(decode(encoded[row], canvas))
        except InvalidInput as error:
            if on_bad_image == "error":
                raise
            bad[row] = str(error)
    good = encoded.without(bad)
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    canvases = np.empty((len(images), height, width, 3), dtype=np.uint8)
    heights, widths = place(images, canvases).T
    return ImageSet(good.name, canvases, heights, widths, good.labels, good.classes, good.skipped)
