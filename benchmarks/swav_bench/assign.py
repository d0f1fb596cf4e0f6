"""`swav-bench assign`: the prototype of every image, and a contact sheet of the images nearest to each prototype."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from swav_bench import api, progress, prototype_sheet, reading
from swav_bench.features_task import SPLITS
from swav_bench.progress import printable
from swav_bench.prototype_sheet import Shown
from swav_bench.reading import Reading
from swav_bench.records import write_atomically
from swav_spec.errors import InvalidInput, require


def assign(
    given: Reading,
    out: Path,
    *,
    split: str = "train",
    sheet: Path | None = None,
    prototypes: int = 20,
    nearest: int = 8,
    console: Console | None = None,
) -> dict[str, Any]:
    """Writes a row for each image: row, name, label, class, prototype (of the largest score) and that score.

    Args:
        given: weights, data and how they are read.
        out: the Parquet or CSV file to write, whole or not at all.
        split: train, validation or test.
        sheet: a PNG to write: a row for each of the most used prototypes, with the images of its highest scores.
        prototypes: how many of them, at most.
        nearest: images of each, at most.
        console: is told of the progress.

    Returns:
        What the task has found (features_task.Features), and `used`, how many prototypes some image is assigned to, and
        `largest`, the share of the images that the most used one has.

    Raises:
        InvalidInput: weights, data or an argument cannot be used; weights of a backbone alone have no prototypes.
        FailedError: the framework failed.
    """
    import pandas as pd

    reading.check_out(out, (".parquet", ".csv"))
    if sheet is not None:
        reading.check_out(sheet, (".png",))
    require(split in SPLITS, "split", split, "one of " + ", ".join(SPLITS))
    require(1 <= prototypes <= prototype_sheet.MOST, "prototypes", prototypes, f"in 1..{prototype_sheet.MOST}")
    require(1 <= nearest <= prototype_sheet.MOST, "nearest", nearest, f"in 1..{prototype_sheet.MOST}")
    job = {"splits": [split], "prototypes": prototypes, "nearest": nearest}
    with reading.asked("prototypes", given, out.parent, console or Console(quiet=True), **job) as (found, folder):
        arrays = {name: reading.array(folder, f"{split}-{name}") for name in ("labels", "prototype", "score")}
        names, classes = reading.names_of(folder, split), np.array(found["classes"], dtype=object)
        frame = pd.DataFrame(
            {
                "row": np.arange(len(names)),
                "name": names,
                "label": arrays["labels"],
                "class": classes[arrays["labels"]],
                "prototype": arrays["prototype"],
                "score": arrays["score"],
            }
        )
        uses = np.bincount(arrays["prototype"], minlength=found["weights"]["prototypes"])
        found |= {"used": int((uses > 0).sum()), "largest": float(uses.max() / uses.sum())}
        with reading.writing(out) as temporary:
            if out.suffix == ".csv":
                frame.to_csv(temporary, index=False)
            else:
                frame.to_parquet(temporary, index=False)
        if sheet is not None:
            shown = Shown(
                **{
                    field: reading.array(folder, f"{split}-{field}")
                    for field in ("shown", "rows", "scores", "pictures")
                },
                prototype=arrays["prototype"],
                labels=arrays["labels"],
                classes=tuple(found["classes"]),
            )
            which = f"the {len(shown.shown)} most used of {len(uses)} prototypes"
            title = f"{found['data']}, {split}: images nearest to {which}"
            try:
                write_atomically(sheet, prototype_sheet.draw(shown, title=title))
            except OSError as error:
                raise InvalidInput(f"sheet = {str(sheet)!r}: cannot be written ({error.strerror or error})") from error
    return found


def command(
    weights: reading.WeightsOption,
    data: reading.DataOption = "textures",
    out: Annotated[Path, typer.Option(metavar="FILE", help="The .parquet or .csv file to write.")] = Path(
        "prototypes.parquet"
    ),
    sheet: Annotated[
        Path | None,
        reading.option("FILE", "The .png of the nearest images; by default beside the other file.", show_default=False),
    ] = None,
    framework: reading.FrameworkOption = "torch",
    split: Annotated[str, typer.Option(metavar="NAME", help="train, validation or test.")] = "train",
    prototypes: Annotated[int, reading.option("N", "Prototypes on the sheet, the most used ones.", min=1)] = 20,
    nearest: Annotated[int, reading.option("N", "Images of each on the sheet.", min=1)] = 8,
    size: reading.SizeOption = None,
    share: reading.ShareOption = api.SHARE,
    batch: reading.BatchOption = api.BATCH,
    workers: reading.WorkersOption = 0,
    on_bad_image: reading.BadOption = "error",
    device: reading.DeviceOption = "cpu",
    precision: reading.PrecisionOption = "float32",
    python: reading.PythonOption = None,
) -> None:
    """Write the prototype of every image, and draw the images nearest to the most used prototypes."""
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
    sheet = sheet or out.with_suffix(".png")
    try:
        found = assign(
            given,
            out,
            split=split,
            sheet=sheet,
            prototypes=prototypes,
            nearest=nearest,
            console=progress.console(),
        )
    except reading.FailedError as error:
        reading.fail(error)
    print(
        printable(
            f"{out}, {sheet}: {found['splits'][split]['samples']:,} {split} images of {found['data']}; "
            f"{found['used']} of {found['weights']['prototypes']} prototypes are used, the most used one by "
            f"{100 * found['largest']:.1f} % of the images"
        )
    )
