"""The data set that a name or a path stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePath
from types import MappingProxyType

from swav_data.canvas import Canvas
from swav_data.cifar import find_cifar, read_cifar
from swav_data.digits import digits
from swav_data.encoded import EncodedSet, OnBadImage, check_on_bad_image, decoded
from swav_data.folder import read_folder
from swav_data.hub import PREFIX, open_hub
from swav_data.images import ImageSet, Splits
from swav_data.noise import noise, small_noise
from swav_data.parquet import find_parquet, read_parquet
from swav_data.textures import textures
from swav_spec.errors import InvalidInput

Maker = Callable[[], Splits[ImageSet]]
#: Data sets that need no files.
BUILT_IN: MappingProxyType[str, Maker] = MappingProxyType(
    {"textures": textures, "digits": digits, "noise": noise, "noise-32": small_noise}
)
NAMES = tuple(BUILT_IN)
#: What tells a folder of the library `datasets`' own format.
_SAVED = ("dataset_dict.json", "state.json")
_ALLOWED = (
    f"must be {', '.join(NAMES)}, a Parquet file, a folder of Parquet files (or folder/PREFIX for PREFIX-train.parquet "
    "and PREFIX-test.parquet), a folder of CIFAR .bin files, a folder of images by class (train/CLASS/*.jpg), or "
    "hf://OWNER/NAME[:SPLIT] of the Hugging Face Hub"
)


def load(source: str | Path, *, canvas: Canvas | None = None, on_bad_image: OnBadImage = "error") -> Splits[ImageSet]:
    """A data set, decoded, in memory.

    Args:
        source: a name in NAMES, or a path: see `open_source`.
        canvas: bounds on the images' sides; Canvas() by default. All images of a split share a canvas that the
            largest of them needs.
        on_bad_image: "error" stops at an image that cannot be decoded; "skip" leaves it out and says so in the
            set's `skipped`. A label out of range is always an error.

    Raises:
        InvalidInput: there is no such data set, or something in it cannot be used; names the file, and the row.
    """
    check_on_bad_image(on_bad_image)

    def in_memory(part: ImageSet | EncodedSet) -> ImageSet:
        return decoded(part, canvas or Canvas(), on_bad_image=on_bad_image) if isinstance(part, EncodedSet) else part

    opened = open_source(source)
    return Splits(
        train=in_memory(opened.train),
        validation=None if opened.validation is None else in_memory(opened.validation),
        test=None if opened.test is None else in_memory(opened.test),
    )


def open_source(source: str | Path) -> Splits[ImageSet | EncodedSet]:
    """A data set whose images are decoded when they are needed (stream.Stream), except for those always held in memory.

    Args:
        source: a name in NAMES; or the path of a Parquet file (training images), of a folder of Parquet files
            named by split, or a common prefix of such files; of a folder of CIFAR's binary files; or of a folder of
            images by class; or "hf://OWNER/NAME[:SPLIT]", see hub.py.

    Raises:
        InvalidInput: there is no such data set, or its index (names, labels, Parquet files) cannot be read.
    """
    if isinstance(source, str) and source.startswith(PREFIX):
        return open_hub(source)
    if isinstance(source, str) and source in BUILT_IN:
        return BUILT_IN[source]()
    try:
        return _open_path(source, Path(source).expanduser())
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no such home folder
        reason = getattr(error, "strerror", None) or error
        raise InvalidInput(f"dataset = {str(source)!r}: cannot be read ({reason})") from error


def public_name(source: str) -> str:
    """What a data set is called in records: its name, or the last part of its path."""
    return source if source.startswith(PREFIX) else PurePath(source).name


def _open_path(source: str | Path, path: Path) -> Splits[ImageSet | EncodedSet]:
    parquet = find_parquet(path) if path.suffix == ".parquet" or not path.is_file() else {}
    if parquet:
        return read_parquet(parquet)
    if not path.is_dir():
        found = "is no Parquet file" if path.is_file() else "there is no such name, file or folder"
        raise InvalidInput(f"dataset = {str(source)!r}: {found}; it {_ALLOWED}")
    if any((path / name).is_file() for name in _SAVED):
        raise InvalidInput(
            f"dataset = {str(source)!r}: is a folder that the library `datasets` has saved; write it as Parquet, "
            "which everybody can read: Dataset.to_parquet('train.parquet') for each split"
        )
    cifar = find_cifar(path)
    if cifar:
        return read_cifar(*cifar)
    return read_folder(path)
