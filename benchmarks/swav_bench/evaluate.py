"""`swav-bench evaluate`: how good frozen features are, beside raw pixels and a network of random weights."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from swav_bench import __version__, api, progress, reading
from swav_bench.features_task import HELD_OUT, LEARNT, RANDOM
from swav_bench.progress import printable
from swav_bench.reading import Reading
from swav_bench.records import write_atomically
from swav_spec.errors import InvalidInput, require

if TYPE_CHECKING:
    from swav_eval.probes import Judgement

FORMAT = "swav-bench evaluation 1"
RAW = "raw pixels"
#: Column of the table -> name of the figure.
COLUMNS = {
    "kNN top-1": "knn_top1",
    "kNN top-5": "knn_top5",
    "linear top-1": "linear_top1",
    "linear top-5": "linear_top5",
    "RankMe": "rankme",
    "uniformity": "uniformity",
}


def evaluate(
    given: Reading,
    out: Path,
    *,
    k: int | None = None,
    temperature: float | None = None,
    linear: bool = True,
    console: Console | None = None,
) -> dict[str, Any]:
    """Judges features of the test images (or, without them, the validation images) by those of the training images.

    Left in the folder: evaluation.json (everything), evaluation.csv (the figures), and of the network's features
    confusion-PROBE.csv and classes-PROBE.csv for the probes knn and linear.

    Args:
        given: weights, data and how they are read.
        out: the folder to write to; it is made if need be.
        k: neighbours that vote; by default 200, or a hundredth of the training images if that is less.
        temperature: of their votes; by default 0.1.
        linear: also fit logistic regression, which takes long for very many images or classes.
        console: is told of the progress.

    Returns:
        What evaluation.json holds.

    Raises:
        InvalidInput: weights, data or an argument cannot be used, or the folder cannot be written.
        FailedError: the framework failed.
    """
    # Here, because scikit-learn takes a second that other commands need not wait.
    from swav_bench import evaluation
    from swav_eval import probes

    require(k is None or k >= 1, "k", k, "at least 1")
    temperature = evaluation.TEMPERATURE if temperature is None else temperature
    require(temperature > 0, "temperature", temperature, "greater than 0")
    console = console or Console(quiet=True)
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
    job = {"random": True, "splits": ["train", HELD_OUT], "keep": ["features", "pixels"]}
    with reading.asked("features", given, out, console, **job) as (found, folder):
        (train, test), classes = found["splits"], found["classes"]
        labels = [reading.array(folder, f"{split}-labels") for split in (train, test)]
        judged: dict[str, Judgement] = {}
        for name in (LEARNT, RANDOM, RAW):
            with console.status(f"probing {name}"):
                kind = "pixels" if name == RAW else f"{name}-features"
                known, asked = (reading.array(folder, f"{split}-{kind}") for split in (train, test))
                judged[name] = probes.judge(
                    known,
                    labels[0],
                    asked,
                    labels[1],
                    classes=len(classes),
                    k=k or evaluation.neighbours(len(known)),
                    temperature=temperature,
                    with_linear=linear,
                )
        result = {
            "format": FORMAT,
            "version": __version__,
            "weights": found["weights"],
            "data": {"name": found["data"], "classes": len(classes), "train": train, "test": test}
            | {"splits": found["splits"]},
            "size": found["size"],
            "share": given.share,
            "implementation": found["environment"],
            "figures": {name: dict(one.figures) for name, one in judged.items()},
        }
        with _writing(out):
            _write(out, result, judged[LEARNT], labels[1], tuple(classes))
    return result


def table(result: dict[str, Any]) -> Table:
    """The figures for a person."""
    data = result["data"]
    counts = " and ".join(f"{data['splits'][part]['samples']:,} {part}" for part in (data["train"], data["test"]))
    figures = result["figures"][LEARNT]
    title = f"{data['name']}: {counts} images, {data['classes']} classes"
    made = Table("features", *COLUMNS, title=printable(title), title_justify="left", caption_justify="left")
    made.caption = (
        f"kNN: k = {figures['knn_k']}, T = {figures['knn_temperature']:g}; the largest class alone has "
        f"{100 * figures['chance']:.1f} %"
    )
    for name, one in result["figures"].items():
        called = result["weights"]["network"] if name == LEARNT else _called(name)
        made.add_row(printable(called), *(_cell(one[figure], figure) for figure in COLUMNS.values()))
    return made


def warnings(result: dict[str, Any]) -> list[str]:
    """What whoever reads the figures should not miss."""
    figures = result["figures"]
    said = []
    for probe in ("knn_top1", "linear_top1"):
        learnt, name = figures[LEARNT][probe], "nearest neighbours" if probe == "knn_top1" else "the linear probe"
        beaten = [other for other in (RANDOM, RAW) if learnt is not None and learnt <= figures[other][probe]]
        if beaten:
            said.append(f"By {name}, these features are no better than {' and '.join(map(_called, beaten))}.")
    for name, one in figures.items():
        if one["linear_converged"] is False:
            said.append(f"The linear probe of {_called(name)} stopped before its tolerance was met.")
    return said


def _called(name: str) -> str:
    return {LEARNT: "these weights", RANDOM: "random weights"}.get(name, name)


def _cell(value: float | None, figure: str) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if "top" in figure else f"{value:.2f}"


def _write(out: Path, result: dict[str, Any], learnt: Judgement, labels: Any, classes: tuple[str, ...]) -> None:
    from swav_eval import tables

    names = list(next(iter(result["figures"].values())))
    rows = [[name, *(one[figure] for figure in names)] for name, one in result["figures"].items()]
    write_atomically(out / "evaluation.csv", _csv(["features", *names], rows))
    for probe, prediction in (("knn", learnt.neighbours), ("linear", learnt.linear)):
        if prediction is None:
            for name in ("confusion", "classes"):  # of an earlier evaluation, which this one replaces
                (out / f"{name}-{probe}.csv").unlink(missing_ok=True)
            continue
        matrix = tables.confusion(labels, prediction.classes, len(classes))
        called = [[name, *counts] for name, counts in zip(classes, matrix.tolist(), strict=True)]
        write_atomically(out / f"confusion-{probe}.csv", _csv(["label \\ prediction", *classes], called))
        per_class = tables.per_class(matrix, classes)
        write_atomically(out / f"classes-{probe}.csv", _csv(tables.ClassRow._fields, per_class))
    write_atomically(out / "evaluation.json", json.dumps(result, indent=2, allow_nan=False) + "\n")


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def command(
    weights: reading.WeightsOption,
    data: reading.DataOption = "textures",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files of figures go.")] = Path("evaluation"),
    framework: reading.FrameworkOption = "torch",
    k: Annotated[
        int | None,
        reading.option(
            "N", "Neighbours; by default 200, at most a hundredth of the training images.", show_default=False, min=1
        ),
    ] = None,
    temperature: Annotated[
        float | None, reading.option("T", "Of the neighbours' votes; by default 0.1.", show_default=False)
    ] = None,
    linear: Annotated[
        bool, typer.Option("--linear/--no-linear", help="Logistic regression on the features, too.")
    ] = True,
    size: reading.SizeOption = None,
    share: reading.ShareOption = api.SHARE,
    batch: reading.BatchOption = api.BATCH,
    workers: reading.WorkersOption = 0,
    on_bad_image: reading.BadOption = "error",
    device: reading.DeviceOption = "cpu",
    precision: reading.PrecisionOption = "float32",
    python: reading.PythonOption = None,
) -> None:
    """Judge frozen features by nearest neighbours and a linear probe, beside raw pixels and random weights."""
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
    console = progress.console()
    try:
        result = evaluate(given, out, k=k, temperature=temperature, linear=linear, console=console)
    except reading.FailedError as error:
        reading.fail(error)
    console.print(table(result))
    for sentence in warnings(result):
        console.print(Text(printable(sentence), style="yellow"), soft_wrap=True)
    console.print(Text(printable(f"Files: {out}")), soft_wrap=True)


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidInput(f"out = {str(out)!r}: cannot be written ({error.strerror or error})") from error
