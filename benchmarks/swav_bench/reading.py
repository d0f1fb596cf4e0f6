"""What embed, assign and evaluate have in common: their options, and the child process that reads the images."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from swav_bench import api, children, probe
from swav_bench.children import Event, Process
from swav_bench.progress import printable
from swav_spec.config import PRECISIONS, DeviceKind, Precision
from swav_spec.errors import InvalidInput, require

FAILED = 1


class FailedError(RuntimeError):
    """A framework failed, or the machine; no input is to blame."""


def option(metavar: str, text: str, *names: str, **limits: Any) -> Any:
    """A typer option whose default is shown only where it has one."""
    return typer.Option(*names, metavar=metavar, help=text, **limits)


WeightsOption = Annotated[
    Path, option("FILE|RUN", "A run's folder, a checkpoint, or a file that `swav-bench convert` has written.")
]
DataOption = Annotated[
    str, option("SOURCE", "textures, digits, Parquet files, CIFAR's .bin files, or a folder of images by class.")
]
FrameworkOption = Annotated[
    str, option("NAME", "torch, jax, tensorflow, or package.module:Class of your own.", "--framework", "-f")
]
SizeOption = Annotated[
    int | None,
    option(
        "N", "Side of the views in pixels; by default that of the first crops in training.", show_default=False, min=1
    ),
]
ShareOption = Annotated[
    float,
    option("X", "Of the shorter side, that the central view shows; images as large as the view are shown whole."),
]
BatchOption = Annotated[int, option("N", "Images given to the network at once.", min=1)]
WorkersOption = Annotated[int, option("N", "Processes that decode images; 0: none besides.", min=0)]
BadOption = Annotated[str, option("error|skip", "What to do at an image that cannot be decoded.")]
DeviceOption = Annotated[str, option("cpu|gpu", "Where the network runs.")]
PrecisionOption = Annotated[str, option("NAME", f"{', '.join(PRECISIONS)}.")]
PythonOption = Annotated[
    list[str] | None,
    option("NAME=INTERPRETER", "Python that has the framework of NAME. Repeatable.", show_default=False),
]


@dataclass(frozen=True)
class Reading:
    """Which images are read, with what, and where.

    Attributes: see the options above, and swav_bench.api.load.
    """

    weights: Path
    data: str
    framework: str = "torch"
    size: int | None = None
    share: float = api.SHARE
    batch: int = api.BATCH
    workers: int = 0
    on_bad_image: str = "error"
    device: DeviceKind = "cpu"
    precision: Precision = "float32"
    interpreters: tuple[tuple[str, str], ...] = ()


def reading(weights: Path, data: str, python: list[str] | None, **others: Any) -> Reading:
    """A Reading from what the command was given.

    Raises:
        InvalidInput: an option is out of its range.
    """
    require(others["device"] in probe.DEVICES, "device", others["device"], " or ".join(probe.DEVICES))
    require(others["precision"] in PRECISIONS, "precision", others["precision"], "one of " + ", ".join(PRECISIONS))
    interpreters = tuple(children.interpreters(python).items())
    return Reading(weights, data, interpreters=interpreters, **others)


@contextlib.contextmanager
def asked(
    task: str, given: Reading, beside: Path, console: Console, **job: Any
) -> Iterator[tuple[dict[str, Any], Path]]:
    """What a task of features_task.py has found, and the folder with its arrays, which goes when the block is left.

    Args:
        task: its name in child.TASKS.
        given: what is read.
        beside: where the results will be; the arrays lie there meanwhile, since only its owner knows its size.
        console: is told of the progress.
        job: the task's own values.

    Raises:
        InvalidInput: the input was refused.
        FailedError: the child could not do its task.
    """
    interpreters = dict(given.interpreters)
    process = Process(given.framework, Path(os.devnull), given.device, os.cpu_count() or 1, interpreters)
    children.check_installed(given.framework, process.interpreter)
    if given.device == "gpu":
        children.check_gpu(given.framework, process.interpreter)
    with _folder(beside) as folder:
        values = {
            "implementation": given.framework,
            "device": given.device,
            "precision": given.precision,
            "mode": "default",
            "weights": str(given.weights.expanduser().absolute()),
            "data": given.data,
            "size": given.size,
            "share": given.share,
            "batch": given.batch,
            "workers": given.workers,
            "on_bad_image": given.on_bad_image,
            "out": str(folder),
        }
        process = Process(given.framework, folder / "log.txt", given.device, process.threads, interpreters)
        with console.status("starting") as status:

            def told(event: Event) -> None:
                if event["event"] == "phase":
                    status.update(printable(event["name"]))
                else:  # progress
                    status.update(f"{event['split']}: {event['done']:,} of {event['samples']:,} images")

            ended = children.run(task, values | job, process, told)
        result = ended.result or {"status": ended.status, "reason": ended.reason}
        if result["status"] != "ok":
            if result.get("refused"):
                raise InvalidInput(result["reason"])
            raise FailedError(f"{given.framework}: {result['reason']}")
        for split, part in result["splits"].items():
            for sentence in part["skipped_reasons"]:
                console.print(Text(printable(f"Left out of {split}: {sentence}"), style="yellow"), soft_wrap=True)
        yield result, folder


def names_of(folder: Path, split: str) -> list[str]:
    """The name of each image of a split."""
    found: list[str] = json.loads((folder / f"{split}-names.json").read_text(encoding="utf-8"))
    return found


def array(folder: Path, name: str) -> np.ndarray:
    """An array that the task has left, read as it is needed."""
    return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))


def check_out(out: Path, suffixes: tuple[str, ...]) -> None:
    """Raises InvalidInput unless a file of one of these kinds can be written there."""
    require(out.name.endswith(suffixes), "out", str(out), "a file that ends in " + " or ".join(suffixes))
    require(out.parent.is_dir(), "out", str(out), "in a folder that exists")


@contextlib.contextmanager
def writing(out: Path) -> Iterator[Path]:
    """A temporary path beside a file, which takes the file's place if all goes well.

    Raises:
        InvalidInput: it cannot be written.
    """
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(out)
    except OSError as error:
        raise InvalidInput(f"out = {str(out)!r}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def fail(error: FailedError) -> NoReturn:
    """Ends the command: one sentence, exit code 1."""
    print(printable(f"swav-bench: {error}"), file=sys.stderr)
    sys.exit(FAILED)


@contextlib.contextmanager
def _folder(beside: Path) -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix=".swav-bench-", dir=beside))
    except OSError as error:
        raise InvalidInput(f"out = {str(beside)!r}: cannot be written ({error.strerror or error})") from error
    try:
        yield folder.absolute()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
