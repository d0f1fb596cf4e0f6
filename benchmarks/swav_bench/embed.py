"""`swav-bench embed`: the features of every image of a data set, as a Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from swav_bench import api, progress, reading
from swav_bench.features_task import LEARNT, SPLITS
from swav_bench.progress import printable
from swav_bench.reading import Reading
from swav_spec.errors import require

#: Rows that are in memory at a time.
ROWS = 4096


def embed(
    given: Reading,
    out: Path,
    *,
    splits: Sequence[str] = (),
    embeddings: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Writes a row for each image: split, row, name, label, class, features and on request embeddings.

    Args:
        given: weights, data and how they are read.
        out: the Parquet file to write, whole or not at all.
        splits: some of train, validation and test; by default all that the data set has.
        embeddings: write the head's unit embeddings [D], too.
        console: is told of the progress.

    Returns:
        What the task has found; see features_task.Features.

    Raises:
        InvalidInput: weights, data or an argument cannot be used.
        FailedError: the framework failed.
    """
    import pyarrow.parquet as pq

    reading.check_out(out, (".parquet",))
    for split in splits:
        require(split in SPLITS, "split", split, "one of " + ", ".join(SPLITS))
    keep = ["features", *(["embeddings"] if embeddings else [])]
    job = {"random": False, "splits": list(splits), "keep": keep}
    with (
        reading.asked("features", given, out.parent, console or Console(quiet=True), **job) as (found, folder),
        reading.writing(out) as temporary,
    ):
        writer = None
        for split in found["splits"]:
            for table in _tables(folder, split, found["classes"], keep):
                writer = writer or pq.ParquetWriter(temporary, table.schema)
                writer.write_table(table)
        assert writer is not None  # no split is empty
        writer.close()
    return found


def _tables(folder: Path, split: str, classes: list[str], keep: list[str]) -> Any:
    import pyarrow as pa

    labels, names = reading.array(folder, f"{split}-labels"), reading.names_of(folder, split)
    arrays = {kind: reading.array(folder, f"{split}-{LEARNT}-{kind}") for kind in keep}
    for start in range(0, len(labels), ROWS):
        rows = slice(start, start + ROWS)
        count = len(labels[rows])
        columns: dict[str, pa.Array] = {
            "split": pa.array([split] * count),
            "row": pa.array(range(start, start + count), pa.int64()),
            "name": pa.array(names[rows]),
            "label": pa.array(labels[rows]),
            "class": pa.array([classes[label] for label in labels[rows]]),
        }
        for kind, array in arrays.items():
            lists = pa.FixedSizeListArray.from_arrays(pa.array(array[rows].ravel()), array.shape[1])
            columns[kind] = lists.cast(pa.list_(pa.float32()))
        yield pa.table(columns)


def command(
    weights: reading.WeightsOption,
    data: reading.DataOption = "textures",
    out: Annotated[Path, typer.Option(metavar="FILE", help="The Parquet file to write.")] = Path("features.parquet"),
    framework: reading.FrameworkOption = "torch",
    split: Annotated[
        list[str] | None,
        reading.option("NAME", "train, validation or test; by default all there are. Repeatable.", show_default=False),
    ] = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Write the head's embeddings of unit length, too.")
    ] = False,
    size: reading.SizeOption = None,
    share: reading.ShareOption = api.SHARE,
    batch: reading.BatchOption = api.BATCH,
    workers: reading.WorkersOption = 0,
    on_bad_image: reading.BadOption = "error",
    device: reading.DeviceOption = "cpu",
    precision: reading.PrecisionOption = "float32",
    python: reading.PythonOption = None,
) -> None:
    """Write the features of every image of a data set to a Parquet file."""
    given = reading.reading(
        weights,
        data,
        python,
        framework=framework,
        size=size,
        share=share,
        batch=batch,
        workers=workers,
        on_bad_image=on_bad_image,
        device=device,
        precision=precision,
    )
    try:
        found = embed(given, out, splits=split or (), embeddings=embeddings, console=progress.console())
    except reading.FailedError as error:
        reading.fail(error)
    counts = ", ".join(f"{part['samples']:,} {name}" for name, part in found["splits"].items())
    print(printable(f"{out}: features of {counts} images of {found['data']}, by {found['weights']['network']}"))
