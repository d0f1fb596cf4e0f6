"""Data sets of the Hugging Face Hub: hf://OWNER/NAME[:SPLIT][?config=C&revision=R&image=COLUMN&label=COLUMN].

Read through the library `datasets`, from release 4 on: that one runs no code that comes with a data set. Images stay
encoded, as the files that they were, and are decoded by decode.py like all others.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import numpy as np

from swav_data.encoded import Encoded, EncodedSet
from swav_data.images import Splits
from swav_data.parquet import IMAGE_COLUMNS, LABEL_COLUMNS
from swav_spec.errors import InvalidInput, require

PREFIX = "hf://"
OLDEST = 4
#: Its names of splits -> ours.
SPLITS = MappingProxyType(
    {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
)
#: What a label column holds where nobody knows the label.
UNKNOWN = -1
_NAME = re.compile(r"hf://(?P<path>[\w.-]+/[\w.-]+)(?::(?P<split>[^?]+))?(?:\?(?P<options>.*))?")
_OPTIONS = ("config", "revision", "image", "label")


class Name(NamedTuple):
    """What a name asks for; None where it leaves that open."""

    path: str
    split: str | None
    config: str | None = None
    revision: str | None = None
    image: str | None = None
    label: str | None = None


class Rows:
    """The encoded images of a split."""

    def __init__(self, where: str, rows: Any, column: str) -> None:
        self._where = where
        self._rows = rows.select_columns([column])
        self._column = column

    def __getitem__(self, position: int) -> Encoded:
        where, value = f"{self._where}, row {position}", self._rows[int(position)][self._column]
        if isinstance(value, Mapping):
            data, path = value.get("bytes"), value.get("path")
            return Encoded(where, data=data) if data is not None or path is None else Encoded(where, path=path)
        return Encoded(where, data=value)


def parse(source: str) -> Name:
    """What a name asks for.

    Raises:
        InvalidInput: it is not of the form above.
    """
    match = _NAME.fullmatch(source)
    form = "hf://OWNER/NAME[:SPLIT], with ?config=, revision=, image= or label= and & between where they are needed"
    if match is None:
        raise InvalidInput(f"dataset = {source!r}: must be {form}")
    options = dict(parse_qsl(match["options"] or "", keep_blank_values=True))
    if (match["options"] and not options) or not set(options) <= set(_OPTIONS) or not all(options.values()):
        raise InvalidInput(f"dataset = {source!r}: must be {form}")
    return Name(match["path"], match["split"], **options)


def open_hub(source: str) -> Splits[EncodedSet]:
    """The images of a data set; a split that is named is the training images, and there are no others.

    Without one, train, validation and test are used, where the latter have labels.

    Raises:
        InvalidInput: the name is wrong, `datasets` is missing or too old, there is no such data set, it cannot be had,
            or its columns are not an image's and a label's.
    """
    name = parse(source)
    library = _library()
    require(
        not Path(name.path).exists(),
        "dataset",
        source,
        f"named without {PREFIX} if the folder {name.path} is meant, which is here and would be taken for it",
    )
    try:
        found = library.load_dataset(name.path, name.config, split=name.split, revision=name.revision)
    except Exception as error:  # whatever the network, the Hub, the library or the files raise
        said = str(error).strip().splitlines() or ["it does not say why"]
        raise InvalidInput(f"dataset = {source!r}: cannot be had ({type(error).__name__}: {said[0]})") from error
    tables = {"train": found} if name.split else _named(found, source)
    sets = {split: _encoded(library, name, split, rows) for split, rows in tables.items()}
    train = sets["train"]
    if train is None:
        raise InvalidInput(f"dataset = {source!r}: no image has a label")
    return Splits(train, sets.get("validation"), sets.get("test"))


def _library() -> Any:
    try:
        library = importlib.import_module("datasets")
    except ImportError as error:
        raise InvalidInput(
            f"the library `datasets` is not installed ({error}), which reads names that begin with {PREFIX}; "
            "install it with: pip install 'swav-bench[hf]'"
        ) from error
    version = str(library.__version__)
    allowed = f"{OLDEST} or later: older ones may run code that comes with a data set; pip install 'swav-bench[hf]'"
    require(int(version.partition(".")[0]) >= OLDEST, "datasets", version, allowed)
    return library


def _named(found: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Split -> its rows, under our names; those of other names are passed over."""
    tables: dict[str, Any] = {}
    for split, rows in found.items():
        if split in SPLITS:
            tables.setdefault(SPLITS[split], rows)
    if "train" not in tables:
        raise InvalidInput(
            f"dataset = {source!r}: has splits {', '.join(found)} but none of train; name one of them after a colon"
        )
    return tables


def _encoded(library: Any, name: Name, split: str, rows: Any) -> EncodedSet | None:
    """The images of a split; None if nobody knows a label in it."""
    where = f"{PREFIX}{name.path} {name.split or split}"
    image = _column(where, rows.features, name.image, IMAGE_COLUMNS, library.Image, "image")
    label = _column(where, rows.features, name.label, LABEL_COLUMNS, library.ClassLabel, "label")
    numbers = rows[label][:]
    for row, number in enumerate(numbers):
        if not isinstance(number, int | np.integer):
            raise InvalidInput(f"{where}, row {row}: column {label} holds {number!r}; it must hold integers")
    labels = np.array(numbers, dtype=np.int64)
    if len(labels) and (labels == UNKNOWN).all():
        return None
    if isinstance(rows.features[image], library.Image):
        rows = rows.cast_column(image, library.Image(decode=False))
    names = getattr(rows.features[label], "names", None)
    classes = tuple(names or map(str, range(int(labels.max(initial=0)) + 1)))
    outside = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(outside):
        row = outside[0]
        raise InvalidInput(f"{where}, row {row}: label = {labels[row]}: must be in 0..{len(classes) - 1}")
    return EncodedSet(f"{name.path}/{name.split or split}", Rows(where, rows, image), labels, classes)


def _column(
    where: str, features: Mapping[str, Any], given: str | None, usual: tuple[str, ...], kind: type, what: str
) -> str:
    """The column of that name; else one of a usual name; else the only one of that kind."""
    if given is not None:
        require(given in features, f"{where}: {what} column", given, "one of " + ", ".join(features))
        return given
    candidates = [column for column in usual if column in features]
    candidates = candidates or [column for column, feature in features.items() if isinstance(feature, kind)]
    if candidates and (len(candidates) == 1 or candidates[0] in usual):
        return candidates[0]
    raise InvalidInput(
        f"{where}: has columns {', '.join(features)}; say which is the {what} with ?{what}=COLUMN after its name"
    )
