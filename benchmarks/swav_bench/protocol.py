"""`swav-bench protocol`: the linear protocol and fine-tuning on few labels, as SwAV's authors did them.

Leaves in a folder: result.json, confusion.csv, per-class.csv, and the trained network, classifier.safetensors.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from swav_bench import children, probe, weights
from swav_bench.children import Event
from swav_bench.progress import printable
from swav_bench.records import write_atomically
from swav_bench.weights import Weights
from swav_eval import tables
from swav_spec import supervised
from swav_spec.config import PRECISIONS, DeviceKind, Execution, Precision
from swav_spec.errors import InvalidInput, require
from swav_spec.supervised import RECIPES, Supervised

FORMAT = "swav-bench protocol 1"
RESULT, CONFUSION, PER_CLASS, CLASSIFIER = "result.json", "confusion.csv", "per-class.csv", "classifier.safetensors"
FAILED = 1


@dataclass(frozen=True)
class Settings:
    """Where and how a protocol is carried out.

    Attributes:
        framework: name of the implementation.
        device, precision, mode: see swav_spec.config.Execution.
        seed: of the labelled images, the linear layer, order and crops; and of the random weights.
        workers: processes that decode images which are not in memory.
        on_bad_image: "error" or "skip".
        baselines: whether random weights and raw pixels are judged, too.
        threads: CPU threads.
        interpreters: implementation -> Python that has its framework.
    """

    framework: str
    device: DeviceKind = "cpu"
    precision: Precision = "float32"
    mode: str = "default"
    seed: int = 0
    workers: int = 0
    on_bad_image: str = "error"
    baselines: bool = True
    threads: int = 1
    interpreters: Mapping[str, str] = field(default_factory=dict)


class ProtocolError(RuntimeError):
    """The child process failed; says how."""


def protocol(
    name: str, source: Path, data: str, out: Path, settings: Settings, changes: Mapping[str, Any], console: Console
) -> dict[str, Any]:
    """Carries a protocol out in a child process and writes its files.

    Args:
        name: one of swav_spec.supervised.RECIPES.
        source: weights, see swav_bench.weights.load.
        data: a data set, see swav_data.sources.open_source.
        out: folder for the files; made if need be.
        settings: see there.
        changes: fields of swav_spec.supervised.Supervised that are to differ from the protocol's.
        console: where progress is shown.

    Returns:
        What result.json holds.

    Raises:
        InvalidInput: an argument cannot be used, or the folder cannot be written.
        ProtocolError: the child process failed.
    """
    require(0 <= settings.seed < 2**64, "seed", settings.seed, "in 0..2^64-1")
    require(settings.workers >= 0, "workers", settings.workers, "at least 0")
    require(settings.on_bad_image in ("error", "skip"), "on_bad_image", settings.on_bad_image, "error or skip")
    Execution(settings.device, settings.precision, settings.mode)  # which checks them
    config = configured(name, changes, weights.load(source))
    interpreter = settings.interpreters.get(settings.framework, sys.executable)
    children.check_installed(settings.framework, interpreter)
    if settings.device == "gpu":
        children.check_gpu(settings.framework, interpreter)
    try:
        out.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        found = _child(config, source, data, out, settings, console)
        found["wall_s"] = time.perf_counter() - started
        return _written(out, name, found, settings)
    except OSError as error:
        raise InvalidInput(f"out = {str(out)!r}: cannot be written ({error.strerror or error})") from error


def configured(protocol: str, changes: Mapping[str, Any], learnt: Weights) -> Supervised:
    """The protocol with the view size and the mean and std that the weights were trained with, then with `changes`.

    Raises:
        InvalidInput: there is no such protocol, or a change is out of its range.
    """
    config = supervised.recipe(protocol)
    if "epochs" in changes:
        config = supervised.with_epochs(config, changes["epochs"])
    if config.frozen and "trunk_lr" in changes:
        raise InvalidInput(f"trunk_lr = {changes['trunk_lr']!r}: must be left out, {protocol} freezes the backbone")
    looks = dataclasses.replace(config.augmentation, mean=learnt.augmentation.mean, std=learnt.augmentation.std)
    return dataclasses.replace(config, **{"size": learnt.size, "augmentation": looks, **changes})


def _child(
    config: Supervised, source: Path, data: str, out: Path, settings: Settings, console: Console
) -> dict[str, Any]:
    job = {
        "config": supervised.to_dict(config),
        "weights": str(source.expanduser().resolve()),
        "data": data,
        "classifier": str((out / CLASSIFIER).resolve()),
        "implementation": settings.framework,
        "device": settings.device,
        "precision": settings.precision,
        "mode": settings.mode,
        "seed": settings.seed,
        "workers": settings.workers,
        "on_bad_image": settings.on_bad_image,
        "baselines": settings.baselines,
    }
    with tempfile.TemporaryDirectory() as folder, console.status("starting") as status:
        log = Path(folder) / "log"
        process = children.Process(
            settings.framework, log, settings.device, settings.threads, interpreters=settings.interpreters
        )
        phase = "starting"

        def handle(event: Event) -> None:
            nonlocal phase
            if event["event"] == "phase":
                phase = event["name"]
                status.update(Text(printable(phase)))
            elif event["event"] == "progress":
                status.update(Text(f"{printable(phase)}, step {event['step']} of {event['steps']}"))
            else:  # an epoch
                console.print(Text(epoch_line(event)), soft_wrap=True)

        ended = children.run("protocol", job, process, handle)
    found = ended.result
    if found is None:
        raise ProtocolError(f"{ended.status}: {ended.reason}")
    if found.pop("refused", False):
        raise InvalidInput(str(found["reason"]))
    if found["status"] != "ok":
        raise ProtocolError(f"{found['status']}: {found['reason']}")
    return found


def _written(out: Path, name: str, found: dict[str, Any], settings: Settings) -> dict[str, Any]:
    labels, predictions, classes = found.pop("labels"), found.pop("predictions"), tuple(found["classes"])
    matrix = tables.confusion(labels, predictions, len(classes))
    write_atomically(out / CONFUSION, as_csv([["label \\ prediction", *classes], *_named_rows(classes, matrix)]))
    rows = tables.per_class(matrix, classes)
    write_atomically(out / PER_CLASS, as_csv([list(tables.ClassRow._fields), *(list(row) for row in rows)]))
    result = {
        "format": FORMAT,
        "protocol": name,
        "framework": settings.framework,
        "seed": settings.seed,
        **{key: value for key, value in found.items() if key not in ("status", "reason")},
    }
    write_atomically(out / RESULT, json.dumps(result, indent=2, allow_nan=False) + "\n")
    return result


def _named_rows(classes: tuple[str, ...], matrix: Any) -> list[list[Any]]:
    return [[name, *map(int, row)] for name, row in zip(classes, matrix, strict=True)]


def as_csv(rows: list[list[Any]]) -> str:
    """Rows as CSV; None is an empty cell, and no cell begins as a formula of a spreadsheet does."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@")) else cell for cell in row]
        for row in rows
    )
    return text.getvalue()


def epoch_line(event: Mapping[str, Any]) -> str:
    """An epoch in one line."""
    top5 = "" if event["top5"] is None else f", top-5 {event['top5']:.4f}"
    width = len(str(event["epochs"]))
    return (
        f"{event['weights']:6} weights  epoch {event['epoch']:{width}}/{event['epochs']}  lr {event['head']:.3g}"
        f"  loss {event['loss']:.4f}  train {event['train_top1']:.4f}  top-1 {event['top1']:.4f}{top5}"
        f"  {event['train_s'] + event['test_s']:.1f} s"
    )


def summary(result: Mapping[str, Any]) -> Table:
    """The figures beside their baselines."""
    table = Table("", "top-1", "top-5", "best epoch", "its top-1", title_justify="left")
    table.add_row("these weights", *_cells(result))
    for name, key in (("random weights", "random"), ("raw pixels, logistic regression", "raw_pixels")):
        if key in result:
            found = result[key]
            table.add_row(name, *(_cells(found) if found["reason"] is None else ("none", "", "", "")))
    table.add_row("the most frequent class", _share(result["chance"]), "", "", "")
    return table


def _cells(found: Mapping[str, Any]) -> tuple[str, str, str, str]:
    if "last" not in found:
        return _share(found["top1"]), _share(found["top5"]), "", ""
    last, best = found["last"], found["best"]
    return _share(last["top1"]), _share(last["top5"]), str(best["epoch"]), _share(best["top1"])


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def command(
    name: Annotated[str, typer.Argument(metavar="|".join(RECIPES), help="Which protocol.", show_default=False)],
    source: Annotated[
        Path,
        typer.Option("--weights", metavar="FILE|RUN", help="A converted file, a checkpoint, or a run's folder."),
    ],
    data: Annotated[
        str,
        typer.Option(metavar="SOURCE", help="textures, digits, Parquet files, or a folder of images by class."),
    ],
    framework: Annotated[
        str, typer.Option("--framework", "-i", metavar="NAME", help="torch, jax, tensorflow, or package.module:Class.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="By default results/protocols/PROTOCOL-DATA-FRAMEWORK.", show_default=False
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="Milestones are moved with them.", min=1, show_default=False)
    ] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Images per step.", min=2, show_default=False)] = None,
    size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Side of the views; by default as in pretraining.", min=1, show_default=False),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Of the shorter side in evaluation; images of the view's size are whole.",
            show_default=False,
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option(metavar="X", help="Of the classifier.", min=0, show_default=False)] = None,
    trunk_lr: Annotated[
        float | None, typer.Option(metavar="X", help="Of the backbone, in fine-tuning.", min=0, show_default=False)
    ] = None,
    fraction: Annotated[
        float | None,
        typer.Option(metavar="X", help="Of the training images that have labels.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of labelled images, linear layer, order, crops.", min=0)] = 0,
    device: Annotated[str, typer.Option(metavar="cpu|gpu", help="The first of its kind.")] = "cpu",
    precision: Annotated[str, typer.Option(metavar="NAME", help=f"{', '.join(PRECISIONS)}.")] = "float32",
    mode: Annotated[str, typer.Option(metavar="NAME", help="How steps run; see `swav-bench env`.")] = "default",
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that decode images.", min=0)] = 0,
    on_bad_image: Annotated[str, typer.Option(metavar="error|skip", help="What an unreadable image does.")] = "error",
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Judge random weights and raw pixels, too.")
    ] = True,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", help="CPU threads; by default 1, with a GPU all.", min=1, show_default=False),
    ] = None,
    python: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=INTERPRETER", help="Python that has the framework of NAME.", show_default=False),
    ] = None,
) -> None:
    """Train a linear classifier on frozen features, or fine-tune on 1 % or 10 % of the labels; on any data set.

    linear: 100 epochs, lr .3 by a cosine. semi-1, semi-10: 20 epochs, lr .02 and 5, or .01 and .2, for backbone and
    classifier. The last epoch counts; the best one stands beside it.
    """
    require(device in probe.DEVICES, "device", device, " or ".join(probe.DEVICES))
    require(precision in PRECISIONS, "precision", precision, "one of " + ", ".join(PRECISIONS))
    settings = Settings(
        framework,
        device,  # type: ignore[arg-type]
        precision,  # type: ignore[arg-type]
        mode,
        seed=seed,
        workers=workers,
        on_bad_image=on_bad_image,
        baselines=baselines,
        threads=threads or (1 if device == "cpu" else os.cpu_count() or 1),
        interpreters=children.interpreters(python),
    )
    given = {"epochs": epochs, "batch": batch, "size": size, "share": share, "head_lr": lr, "trunk_lr": trunk_lr}
    changes = {key: value for key, value in (given | {"fraction": fraction}).items() if value is not None}
    folder = out or Path("results/protocols") / "-".join(map(_plain, (name, Path(data).name, framework)))
    console = Console(highlight=False, soft_wrap=True)
    try:
        result = protocol(name, source, data, folder, settings, changes, console)
    except ProtocolError as error:
        print(printable(f"swav-bench: {error}"), file=sys.stderr)
        raise typer.Exit(FAILED) from None
    console.print(summary(result))
    for key, what in (("random", "random weights"), ("raw_pixels", "raw pixels")):
        if result.get(key, {}).get("reason"):
            print(printable(f"No figure for {what}: {result[key]['reason']}"))
    print(printable(f"{folder}: {RESULT}, {CONFUSION}, {PER_CLASS}, {CLASSIFIER}"))


def _plain(text: str) -> str:
    """The text as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text)
