"""Image files in one folder per class, as ImageNet is laid out: root/train/CLASS/*.jpg, root/val/CLASS/*.jpg.

Also root/test/CLASS/..., or no split folders at all: then root/CLASS/... are training images.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from swav_data.encoded import Encoded, EncodedSet
from swav_data.images import Splits
from swav_spec.errors import InvalidInput

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
#: Split -> names that its folder may have.
SPLIT_FOLDERS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}


class FileList:
    """Paths of image files."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __getitem__(self, position: int) -> Encoded:
        path = self.paths[position]
        return Encoded(where=path, path=path)


def read_folder(root: Path) -> Splits[EncodedSet]:
    """The images below a folder. Classes are their folders' names, sorted; hidden files and folders are passed over.

    Raises:
        InvalidInput: there is no folder of images, one has no image in it, or splits differ in their classes.
    """
    folders = {split: root / name for split, names in SPLIT_FOLDERS.items() for name in names if (root / name).is_dir()}
    if not folders:
        return Splits(train=_read_split(root, root.name))
    if "train" not in folders:
        raise InvalidInput(f"{root}: has a folder {folders.popitem()[1].name} but none called train")
    return Splits(**{split: _read_split(folder, f"{root.name}/{split}") for split, folder in folders.items()})


def _read_split(folder: Path, name: str) -> EncodedSet:
    classes = sorted(entry.name for entry in _entries(folder) if entry.is_dir())
    if not classes:
        images = sum(entry.name.lower().endswith(SUFFIXES) for entry in _entries(folder))
        beside = f", only {images} images; put them into one, e.g. {folder / 'all'}" if images else ""
        raise InvalidInput(f"{folder}: has no folders of images, one for each class{beside}")
    paths: list[str] = []
    labels: list[int] = []
    for label, class_name in enumerate(classes):
        of_class = folder / class_name
        found = sorted(entry.path for entry in _entries(of_class) if entry.name.lower().endswith(SUFFIXES))
        if not found:
            raise InvalidInput(f"{of_class}: is a class without images ({', '.join(SUFFIXES)})")
        paths += found
        labels += [label] * len(found)
    return EncodedSet(name, FileList(paths), np.array(labels), tuple(classes))


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InvalidInput(f"{folder}: cannot be read ({error.strerror or error})") from error
