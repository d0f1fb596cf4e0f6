"""Parquet files in the layout of Hugging Face `datasets`.

Column `image` (or `img`): a struct of bytes and path, or the bytes themselves. Column `label` (or `fine_label`):
integers. Names of the classes stand in the schema's "huggingface" metadata; without them classes are numbered.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swav_data.encoded import Encoded, EncodedSet
from swav_data.images import Splits
from swav_spec.errors import InvalidInput, require

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")
#: What follows the prefix in a file's name: prefix-train.parquet, train-00000-of-00002.parquet
_SPLIT_NAME = re.compile(r"^(?:(?P<prefix>.+)-)?(?P<split>train|validation|valid|val|test)(?:-\d+-of-\d+)?\.parquet$")
_SPLITS = {"val": "validation", "valid": "validation"}


class ParquetBytes:
    """The encoded images of some Parquet files, in memory."""

    def __init__(self, columns: list[tuple[Path, pa.ChunkedArray]]) -> None:
        self.columns = columns
        self._ends = np.cumsum([len(column) for _, column in columns])

    def __getitem__(self, position: int) -> Encoded:
        part = int(np.searchsorted(self._ends, position, side="right"))
        path, column = self.columns[part]
        row = position - (int(self._ends[part - 1]) if part else 0)
        return Encoded(where=f"{path}, row {row}", data=column[row].as_py())


def find_parquet(path: Path) -> dict[str, list[Path]]:
    """Split -> files of the data set at `path`; empty if there is none.

    Args:
        path: a file (training images, whatever its name), a folder of files called train, validation or test, or
            folder/prefix for files that are called prefix-train, prefix-test and so on.

    Raises:
        InvalidInput: names in a folder do not tell the split, or belong to several data sets.
    """
    if path.is_file():
        return {"train": [path]}
    if path.is_dir():
        folder = path if any(path.glob("*.parquet")) else path / "data"
        files = sorted(folder.glob("*.parquet"))
    else:
        files = sorted(file for file in path.parent.glob("*.parquet") if file.name.startswith(f"{path.name}-"))
    splits: dict[str, list[Path]] = {}
    prefixes: set[str] = set()
    for file in files:
        match = _SPLIT_NAME.match(file.name)
        if match is None:
            raise InvalidInput(f"{file}: its name must be [PREFIX-]train, validation or test[-00000-of-00001].parquet")
        prefixes.add(match["prefix"] or "")
        splits.setdefault(_SPLITS.get(match["split"], match["split"]), []).append(file)
    if len(prefixes) > 1:
        named = " or ".join(str(files[0].parent / prefix) for prefix in sorted(prefixes) if prefix)
        raise InvalidInput(f"{path}: holds more than one data set; name one of them: {named}")
    if splits and "train" not in splits:
        raise InvalidInput(f"{path}: has Parquet files of {', '.join(splits)} but none of train")
    return splits


def read_parquet(splits: dict[str, list[Path]]) -> Splits[EncodedSet]:
    """The images of these files, their bytes in memory.

    Raises:
        InvalidInput: a file cannot be read or is cut off, a column is missing or of another type, or a label is out of
            range or missing.
    """
    names = _class_names(splits["train"][0])
    train = _read_split("train", splits["train"], names)
    others = {
        split: _read_split(split, files, names or train.classes) for split, files in splits.items() if split != "train"
    }
    return Splits(train=train, **others)


def _read_split(split: str, files: list[Path], classes: tuple[str, ...] | None) -> EncodedSet:
    columns, labels = [], []
    for file in files:
        images, numbers = _read_file(file)
        if classes is not None:
            outside = (numbers < 0) | (numbers >= len(classes))
            if outside.any():
                row = int(outside.argmax())
                raise InvalidInput(f"{file}, row {row}: label = {numbers[row]}: must be in 0..{len(classes) - 1}")
        columns.append((file, images))
        labels.append(numbers)
    every = np.concatenate(labels)
    if classes is None:
        require(len(every) >= 1, f"{files[0]}: rows", len(every), "at least 1")
        classes = tuple(str(number) for number in range(int(every.max()) + 1))
    match = _SPLIT_NAME.match(files[0].name)
    name = match["prefix"] if match and match["prefix"] else files[0].parent.name if match else files[0].stem
    return EncodedSet(f"{name}/{split}", ParquetBytes(columns), every, classes)


def _read_file(file: Path) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The bytes of the images, and the labels [rows] int64."""
    import pyarrow as pa
    import pyarrow.compute as pc

    with _reading(file) as parquet:
        schema = parquet.schema_arrow
        image_name = _column(file, schema, IMAGE_COLUMNS)
        label_name = _column(file, schema, LABEL_COLUMNS)
        if not pa.types.is_integer(schema.field(label_name).type):
            found = schema.field(label_name).type
            raise InvalidInput(f"{file}: column {label_name} holds {found}; it must hold integers")
        table = parquet.read(columns=[image_name, label_name])
    images, labels = table[image_name], table[label_name]
    if pa.types.is_struct(images.type) and images.type.get_field_index("bytes") >= 0:
        images = pc.struct_field(images, "bytes")
    if not (pa.types.is_binary(images.type) or pa.types.is_large_binary(images.type)):
        raise InvalidInput(f"{file}: column {image_name} holds {images.type}; it must hold bytes or structs of them")
    if labels.null_count:
        row = labels.is_null().to_numpy().argmax()
        raise InvalidInput(f"{file}, row {row}: has no label")
    return images, labels.to_numpy().astype(np.int64)


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[pq.ParquetFile]:
    """The open file; errors of pyarrow become one sentence."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise InvalidInput(f"{file}: cannot be read as Parquet ({reason}); is it complete?") from error


def _class_names(file: Path) -> tuple[str, ...] | None:
    """The names of the label column's classes, from the schema's metadata; None where it does not tell."""
    with _reading(file) as parquet:
        schema = parquet.schema_arrow
    metadata = (schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return None
    label_name = _column(file, schema, LABEL_COLUMNS)
    try:
        feature = json.loads(metadata)["info"]["features"][label_name]
        names = feature.get("names")
        return None if names is None else tuple(str(name) for name in names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{file}: its huggingface metadata do not describe column {label_name} ({error})") from error


def _column(file: Path, schema: pa.Schema, allowed: tuple[str, ...]) -> str:
    for name in allowed:
        if name in schema.names:
            return name
    raise InvalidInput(f"{file}: has columns {', '.join(schema.names)}; one called {' or '.join(allowed)} is needed")
