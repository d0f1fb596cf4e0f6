"""`swav-bench show-crops`: what the crops of a recipe look like on some images, in every framework side by side.

People look before they read: a view cut from another image, a flipped channel or a blur that eats everything is seen
at once on a contact sheet.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from swav_bench import children, contact_sheet, probe
from swav_bench.records import write_atomically
from swav_bench.views_child import Case, views_of
from swav_data.canvas import Canvas
from swav_data.sources import open_source
from swav_data.stream import Stream
from swav_spec import recipes
from swav_spec.config import DeviceKind
from swav_spec.errors import InvalidInput, require
from swav_spec.registry import BUILT_IN, PEERS

SPECIFICATION = "numpy"
FRAMEWORKS = tuple(name for name in BUILT_IN if name != SPECIFICATION and name not in PEERS)


class Shown(NamedTuple):
    """What a sheet shows.

    Attributes:
        names: of the implementations.
        largest: the largest difference between two of them, in views after normalisation.
        missing: one sentence for each framework that is not installed.
    """

    names: tuple[str, ...]
    largest: float
    missing: tuple[str, ...]


def show_crops(
    data: str,
    out: Path,
    *,
    recipe: str = "textures",
    crops: str | None = None,
    count: int = 4,
    seed: int = 0,
    implementations: Sequence[str] = (),
    device: DeviceKind = "cpu",
    interpreters: Mapping[str, str] | None = None,
) -> Shown:
    """Draws the first images that a run with this seed would see, with their crops.

    Args:
        data: a data set, as for swav_data.sources.load.
        out: the PNG to write.
        recipe: whose crops and augmentation are used.
        crops: other sizes and counts for the recipe's groups of crops, e.g. "2x160+4x96".
        count: images, at least 2.
        seed: of the order of the images and of the crops.
        implementations: names; by default the frameworks that are installed, with the specification beside a lone one.
        device: that each makes its views on; the specification's are made on the CPU.
        interpreters: implementation -> Python that has its framework.

    Raises:
        InvalidInput: an argument is out of its range, a named implementation is not there, or the file cannot be
            written.
    """
    require(out.suffix.lower() == ".png", "out", str(out), "the name of a .png file")
    require(out.parent.is_dir(), "out", str(out), "in a folder that exists")
    require(count >= 2, "count", count, "at least 2 images")
    interpreters = interpreters or {}
    names, missing = _installed(implementations, interpreters)
    chosen = recipes.recipe(recipe)
    case = _first_images(data, recipes.with_crops(chosen, crops) if crops else chosen, count, seed)
    views = {
        name: views_of(
            name,
            {"shown": case},
            device="cpu" if name == SPECIFICATION else device,
            interpreter=interpreters.get(name, sys.executable),
        )["shown"]
        for name in names
    }
    differing = [name for name, found in views.items() if _shapes(found) != _shapes(views[names[0]])]
    if differing:
        raise InvalidInput(f"implementation = {differing[0]!r}: its views have other shapes than those of {names[0]}")
    largest = max(
        float(np.max(_spread([found[run] for found in views.values()]))) for run in range(len(views[names[0]]))
    )
    title = f"{data if data in ('textures', 'digits') else Path(data).name}: crops of the recipe {recipe}"
    try:
        write_atomically(out, contact_sheet.draw(case, views, title=title))
    except OSError as error:
        raise InvalidInput(f"out = {str(out)!r}: cannot be written ({error.strerror or error})") from error
    return Shown(names, largest, missing)


def command(
    data: Annotated[
        str, typer.Option(metavar="SOURCE", help="textures, digits, Parquet files, or a folder of images by class.")
    ] = "textures",
    out: Annotated[Path, typer.Option(metavar="FILE", help="The PNG to write.")] = Path("crops.png"),
    recipe: Annotated[str, typer.Option(metavar="NAME", help="Whose crops; see `swav-bench list`.")] = "textures",
    crops: Annotated[
        str | None,
        typer.Option(metavar="CxS+CxS", help="Other counts and sizes for them, e.g. 2x160+4x96.", show_default=False),
    ] = None,
    count: Annotated[int, typer.Option(metavar="N", help="Images.", min=2, max=64)] = 4,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the order of the images and of the crops.", min=0)] = 0,
    implementation: Annotated[
        list[str] | None,
        typer.Option(
            "-i",
            "--implementation",
            metavar="NAME",
            help="By default all that are installed. Repeatable.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="cpu|gpu", help="Where views are made.")] = "cpu",
    python: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=INTERPRETER", help="Python that has the framework of NAME. Repeatable.", show_default=False
        ),
    ] = None,
) -> None:
    """Draw some images, their boxes and their crops in every framework, and the difference of these, magnified."""
    require(device in probe.DEVICES, "device", device, " or ".join(probe.DEVICES))
    shown = show_crops(
        data,
        out,
        recipe=recipe,
        crops=crops,
        count=count,
        seed=seed,
        implementations=tuple(implementation or ()),
        device=device,  # type: ignore[arg-type]
        interpreters=children.interpreters(python),
    )
    for sentence in shown.missing:
        print(f"Left out: {sentence}", file=sys.stderr)
    print(f"{out}: {', '.join(shown.names)}; views differ by at most {shown.largest:.1e} after normalisation")


def _installed(asked: Sequence[str], interpreters: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names to show, and why others are not; what was asked for must be there."""
    names = list(dict.fromkeys(asked))
    for name in names:
        children.check_installed(name, interpreters.get(name, sys.executable))
    if names:
        return tuple(names), ()
    missing = []
    for name in FRAMEWORKS:
        try:
            children.check_installed(name, interpreters.get(name, sys.executable))
        except InvalidInput as error:
            missing.append(str(error))
        else:
            names.append(name)
    if len(names) < 2:
        names.append(SPECIFICATION)
    return tuple(names), tuple(missing)


def _first_images(data: str, recipe: recipes.Recipe, count: int, seed: int) -> Case:
    source = open_source(data).train
    require(len(source) >= count, "count", count, f"at most the {len(source)} training images")
    with Stream(source, batch=count, seed=seed, steps=range(1), canvas=Canvas()) as stream:
        (batch,) = stream
    config = recipes.resolve(dataclasses.replace(recipe, batch=count, queue_length=0), samples=len(source), steps=1)
    height, width = batch.heights.max(), batch.widths.max()
    return Case(batch.images[:, :height, :width], batch.heights, batch.widths, batch.samples, config, seed)


def _shapes(views: list[np.ndarray]) -> list[tuple[int, ...]]:
    return [array.shape for array in views]


def _spread(arrays: Sequence[Any]) -> np.ndarray:
    return np.ptp(np.stack(arrays).astype(np.float64), axis=0)
