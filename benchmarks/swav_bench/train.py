"""`swav-bench train`: one run of SwAV, from a recipe and images to weights; run again, it goes on where it stopped."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from swav_bench import checkpoint, children, progress, run_config
from swav_bench.progress import printable
from swav_bench.run_config import PRECISION_NAMES, Settings
from swav_bench.run_folder import RunFolder
from swav_bench.train_display import display, ending
from swav_spec.errors import InvalidInput

FAILED, INTERRUPTED = 1, 130
_OUT_OF_MEMORY = (
    "A batch of {batch} does not fit into memory. What helps: a smaller batch with a queue, which makes up for the "
    "samples that Sinkhorn misses (--batch {half} --queue-length {queue}), smaller crops, or --precision bf16. "
    "Gradient accumulation is not offered: Sinkhorn and batch normalisation need the whole batch at once."
)
WHAT, WHERE, WATCHING = "What is learnt", "Where and how it runs", "What is kept and watched"


def _option(metavar: str, text: str, *names: str, panel: str, **limits: Any) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, show_default=False, rich_help_panel=panel, **limits)


def _flag(name: str, text: str, *, panel: str) -> Any:
    return typer.Option(name, help=text, show_default=False, rich_help_panel=panel)


def command(
    framework: Annotated[
        str | None, _option("NAME", "torch, jax, tensorflow, or package.module:Class of your own.", panel=WHERE)
    ] = None,
    data: Annotated[
        str | None,
        _option(
            "SOURCE", "textures, digits, Parquet files, CIFAR's files, or a folder of images by class.", panel=WHAT
        ),
    ] = None,
    recipe: Annotated[str | None, _option("NAME", "Where settings start; see `swav-bench list`.", panel=WHAT)] = None,
    out: Annotated[Path | None, _option("FOLDER", "The run's; the same one goes on with it.", panel=WATCHING)] = None,
    config: Annotated[
        Path | None,
        _option("FILE", "TOML: these options by name, and a table set with fields of the recipe.", panel=WHAT),
    ] = None,
    set_: Annotated[
        list[str] | None,
        _option(
            "FIELD=VALUE",
            "Any field of the recipe, e.g. optimizer.kind=adam, crops=2x32+4x16, network.prototypes=300. Repeatable.",
            "--set",
            panel=WHAT,
        ),
    ] = None,
    network: Annotated[str | None, _option("NAME", "See `swav-bench list`.", panel=WHAT)] = None,
    crops: Annotated[str | None, _option("CxS+CxS", "Counts and sizes of the recipe's crops.", panel=WHAT)] = None,
    batch: Annotated[int | None, _option("N", "Images per step.", panel=WHAT)] = None,
    epochs: Annotated[float | None, _option("X", "Passes over the data.", panel=WHAT)] = None,
    steps: Annotated[int | None, _option("N", "Length of the run, instead of epochs.", panel=WHAT)] = None,
    lr: Annotated[float | None, _option("X", "Base learning rate.", panel=WHAT)] = None,
    scale_lr: Annotated[
        bool | None,
        _flag("--scale-lr", "Learning rates grow with the batch (linear scaling rule).", panel=WHAT),
    ] = None,
    epsilon: Annotated[float | None, _option("X", "Sharpness of the codes; smaller is sharper.", panel=WHAT)] = None,
    queue_length: Annotated[int | None, _option("N", "Rows of the queue; 0 for none.", panel=WHAT)] = None,
    seed: Annotated[int | None, _option("N", "Of weights, order and crops.", panel=WHAT)] = None,
    precision: Annotated[str | None, _option("NAME", "float32, tf32, bf16 (or float64).", panel=WHERE)] = None,
    mode: Annotated[str | None, _option("NAME", "How steps are executed; see `swav-bench env`.", panel=WHERE)] = None,
    device: Annotated[str | None, _option("cpu|gpu", "The first of its kind.", panel=WHERE)] = None,
    python: Annotated[
        list[str] | None,
        _option("NAME=INTERPRETER", "Python that has the framework of NAME. Repeatable.", panel=WHERE),
    ] = None,
    threads: Annotated[
        int | None,
        _option(
            "N",
            "CPU threads; by default 1, with a GPU all; more pay off for large networks on an idle CPU.",
            panel=WHERE,
        ),
    ] = None,
    input_: Annotated[
        str | None,
        _option(
            "resident|stream",
            "All images on the device, or decoded as they are needed; by default what fits in 2 GiB is resident.",
            "--input",
            panel=WHERE,
        ),
    ] = None,
    workers: Annotated[int | None, _option("N", "Processes that decode a stream.", panel=WHERE)] = None,
    on_bad_image: Annotated[
        str | None, _option("error|skip", "What becomes of images that cannot be decoded.", panel=WHERE)
    ] = None,
    checkpoint_every: Annotated[
        int | None, _option("N", "Steps; by default every two minutes.", panel=WATCHING)
    ] = None,
    keep: Annotated[int | None, _option("N", "Checkpoints to keep besides the best (3).", panel=WATCHING)] = None,
    log_every: Annotated[int | None, _option("N", "Steps; by default every 1.5 s.", panel=WATCHING)] = None,
    knn_every: Annotated[
        float | None,
        _option(
            "X",
            "Epochs from one accuracy of nearest neighbours to the next; the best checkpoint goes by it where there "
            "are validation images.",
            "--knn-every",
            "--evaluate-every",
            panel=WATCHING,
        ),
    ] = None,
    evaluate: Annotated[
        bool | None,
        typer.Option(
            "--evaluate/--no-evaluate",
            help="Nearest neighbours and a linear probe at the end.",
            show_default=False,
            rich_help_panel=WATCHING,
        ),
    ] = None,
    stop_on_collapse: Annotated[
        bool | None, _flag("--stop-on-collapse", "End the run at the first sign of collapse.", panel=WATCHING)
    ] = None,
    tensorboard: Annotated[
        bool | None, _flag("--tensorboard", "Write event files for TensorBoard as well.", panel=WATCHING)
    ] = None,
) -> None:
    """Train SwAV: [bold]swav-bench train --framework torch --recipe cifar10 --data DATA --out RUN[/bold]

    Run again with the same --out, it goes on from the last checkpoint, with any framework. Exit code 0: the run has
    ended well; 1: it failed or collapsed; 2: the command cannot be followed; 130: stopped.
    """
    changes = {
        "network": network,
        "crops": crops,
        "batch": batch,
        "epochs": epochs,
        "base_lr": lr,
        "epsilon": epsilon,
        "queue_length": queue_length,
    }
    given = {
        "framework": framework,
        "data": data,
        "recipe": recipe,
        "out": None if out is None else str(out),
        "steps": steps,
        "scale_lr": scale_lr,
        "seed": seed,
        "precision": PRECISION_NAMES.get(precision or "", precision),
        "mode": mode,
        "device": device,
        "threads": threads,
        "input": input_,
        "workers": workers,
        "on_bad_image": on_bad_image,
        "checkpoint_every": checkpoint_every,
        "keep": keep,
        "log_every": log_every,
        "knn_every": knn_every,
        "evaluate": evaluate,
        "stop_on_collapse": stop_on_collapse,
        "tensorboard": tensorboard,
        "changes": changes,
    }
    settings = run_config.settings(config, given, set_ or ())
    sys.exit(train(settings, progress.console(), children.interpreters(python)))


def train(settings: Settings, console: Console, interpreters: dict[str, str]) -> int:
    """Runs, or goes on with, a training run in a process of its own; the exit code.

    Raises:
        InvalidInput: the settings, the data or the folder cannot be used.
    """
    folder, name = RunFolder(Path(settings.out)), settings.framework
    interpreter = interpreters.get(name, sys.executable)
    children.check_installed(name, interpreter)
    if settings.device == "gpu":
        children.check_gpu(name, interpreter)
    shown = display(console)
    process = children.Process(
        implementation=name,
        device=settings.device,
        threads=settings.threads or (1 if settings.device == "cpu" else os.cpu_count() or 1),
        interpreters=interpreters,
        log=folder.child_log,
    )
    with folder.held():
        shown.start()
        try:
            ended = children.run("train", {"settings": settings.to_job()}, process, shown.event)
        except KeyboardInterrupt:
            shown.stop()
            print(_stopped(folder), file=sys.stderr)
            return INTERRUPTED
        finally:
            shown.stop()
        found = ended.result or {"status": ended.status, "reason": ended.reason}
        if found.get("refused"):
            raise InvalidInput(found["refused"])
    return _told(console, settings, found)


def _told(console: Console, settings: Settings, found: dict[str, Any]) -> int:
    """Says how it ended."""
    if found.get("finished"):
        console.print(Text(f"{settings.out} has ended before; nothing is left to do."), soft_wrap=True)
    if found.get("summary"):
        ending(console, found["summary"])
    if found["status"] == "ok":
        console.print(Text(f"Run: {settings.out}"), soft_wrap=True)
        return 0
    said = f"{found['status']}: {found['reason']}"
    if found["status"] == "oom":
        batch = settings.chosen_recipe().batch
        said += "\n" + _OUT_OF_MEMORY.format(batch=batch, half=max(2, batch // 2), queue=max(2, batch // 2) * 4)
    for line in said.splitlines():
        console.print(Text(printable(line), style="bold red"), soft_wrap=True)
    return FAILED


def _stopped(folder: RunFolder) -> str:
    kept = checkpoint.steps(folder.checkpoints)
    last = f"The last checkpoint is {kept[-1].name}" if kept else "There is no checkpoint yet"
    return f"Stopped. {last}. The same command goes on."
