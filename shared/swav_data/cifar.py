"""CIFAR-10 and CIFAR-100 in their binary version: records of one or two label bytes and 3 x 32 x 32 pixel bytes.

The pickled ("python") version is refused: unpickling runs whatever code the file holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from swav_data.images import ImageSet, Splits
from swav_spec.errors import InvalidInput, require

SIDE = 32
PIXELS = 3 * SIDE * SIDE


class Layout(NamedTuple):
    """How one of the two sets lies in its folder; the label that counts is the last of `label_bytes`."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int
    class_names: str
    classes: int


_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
LAYOUTS = (
    Layout("cifar10", _BATCHES, ("test_batch.bin",), 1, "batches.meta.txt", 10),
    Layout("cifar100", ("train.bin",), ("test.bin",), 2, "fine_label_names.txt", 100),
)
#: Folders that the archives unpack to.
_SUBFOLDERS = ("", "cifar-10-batches-bin", "cifar-100-binary")
_PICKLED = (("data_batch_1", "batches.meta"), ("train", "meta"))


def find_cifar(root: Path) -> tuple[Layout, Path] | None:
    """Which set lies in a folder, and where; None if neither does.

    Raises:
        InvalidInput: it is the pickled version.
    """
    for folder in (root / name for name in _SUBFOLDERS):
        for layout in LAYOUTS:
            if (folder / layout.train[0]).is_file():
                return layout, folder
    for folder in (root, root / "cifar-10-batches-py", root / "cifar-100-python"):
        if any(all((folder / name).is_file() for name in names) for names in _PICKLED):
            raise InvalidInput(
                f"{folder}: is the pickled version of CIFAR, and unpickling would run whatever code is in it; "
                "get the binary version (cifar-10-binary.tar.gz or cifar-100-binary.tar.gz)"
            )
    return None


def read_cifar(layout: Layout, folder: Path) -> Splits[ImageSet]:
    """Training and test images.

    Raises:
        InvalidInput: a file is missing, cut off or empty, or a label is out of range.
    """
    classes = _class_names(layout, folder)
    return Splits(
        train=_read_split(layout, folder, "train", layout.train, classes),
        test=_read_split(layout, folder, "test", layout.test, classes),
    )


def _read_split(layout: Layout, folder: Path, split: str, names: tuple[str, ...], classes: tuple[str, ...]) -> ImageSet:
    records = np.concatenate([_records(folder / name, layout) for name in names])
    images = records[:, layout.label_bytes :].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    sizes = np.full(len(records), SIDE)
    labels = records[:, layout.label_bytes - 1]
    return ImageSet(f"{layout.name}/{split}", np.ascontiguousarray(images), sizes, sizes, labels, classes)


def _records(file: Path, layout: Layout) -> np.ndarray:
    length = layout.label_bytes + PIXELS
    data = np.frombuffer(_read(file), dtype=np.uint8)
    allowed = f"a multiple of {length}, greater than 0 (is the file complete?)"
    require(len(data) > 0 and len(data) % length == 0, f"{file}: bytes", len(data), allowed)
    records = data.reshape(-1, length)
    labels = records[:, layout.label_bytes - 1]
    row = int(labels.argmax())
    require(labels[row] < layout.classes, f"{file}, row {row}: label", int(labels[row]), f"in 0..{layout.classes - 1}")
    return records


def _class_names(layout: Layout, folder: Path) -> tuple[str, ...]:
    file = folder / layout.class_names
    if not file.exists():
        return tuple(str(number) for number in range(layout.classes))
    names = tuple(_read(file).decode("utf-8", errors="replace").split())
    require(len(names) == layout.classes, f"{file}: names", len(names), f"{layout.classes}, one for each class")
    return names


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{file}: cannot be read ({error.strerror or error})") from error
