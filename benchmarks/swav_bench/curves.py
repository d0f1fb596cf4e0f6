"""Training runs over each other: curves of loss and kNN accuracy, and whether frameworks differ beyond their seeds.

`swav-bench curves FOLDER` reads every run in a folder (config.json, log.jsonl, summary.json) and leaves curves.md,
curves.json, curves.png and curves.svg in it, made from those files and nothing else.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePath
from typing import Annotated, Any

import jinja2
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swav_bench import plots
from swav_bench.records import write_atomically
from swav_bench.run_folder import LogLine, RunFolder
from swav_bench.tables import KNOWN, significant
from swav_spec.errors import InvalidInput, require

MARKDOWN, JSON, PNG, SVG = "curves.md", "curves.json", "curves.png", "curves.svg"
#: Fields of a run's settings that name it, and do not change what is learnt.
OWN = ("framework", "seed", "out", "mode", "threads", "keep", "checkpoint_every", "log_every", "tensorboard")
#: Loss is drawn as the mean over so many lines of the log, at most.
POINTS = 120


@dataclass(frozen=True)
class Run:
    """One run that has ended.

    Attributes:
        name: of its folder.
        framework, seed: of the run.
        lines: of its log.
        summary: how it ended.
        asked: what was asked of it, without what is its own.
    """

    name: str
    framework: str
    seed: int
    lines: list[LogLine]
    summary: dict[str, Any]
    asked: dict[str, Any]

    @property
    def accuracy(self) -> dict[str, Any]:
        """Figures of the features at its end."""
        found: dict[str, Any] = self.summary["accuracy"]["learnt"]
        return found

    def curve(self, field: str) -> tuple[list[float], list[float]]:
        """Epochs and values of the lines that have the field."""
        points = [(line["epoch"], line[field]) for line in self.lines if line.get(field) is not None]
        return [epoch for epoch, _ in points], [value for _, value in points]


def command(
    folder: Annotated[Path, typer.Argument(help="A folder of folders that `swav-bench train` has filled.")],
) -> None:
    """Draw the runs in a folder over each other, and say whether frameworks differ beyond the spread of their seeds."""
    try:
        found = write(folder)
    except OSError as error:
        raise InvalidInput(f"folder = {str(folder)!r}: cannot be written ({error.strerror or error})") from error
    for sentence in found["sentences"]:
        print(sentence)
    print(f"Page: {folder / MARKDOWN}")


def write(folder: Path) -> dict[str, Any]:
    """Makes the page of a folder's runs.

    Returns:
        What curves.json says.

    Raises:
        InvalidInput: there are no two runs that have ended, or they were not asked for the same.
        OSError: the folder cannot be written.
    """
    runs = read(folder)
    found = figures(runs)
    template = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=False,  # noqa: S701  # Markdown; every name in it is a framework's or a number
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("curves.md.jinja")
    write_atomically(folder / MARKDOWN, template.render(found, name=folder.resolve().name, png=PNG).strip() + "\n")
    write_atomically(folder / JSON, json.dumps(found, indent=1) + "\n")
    draw(runs, folder / PNG, folder / SVG)
    return found


def read(folder: Path) -> list[Run]:
    """The runs in a folder's folders, by framework and seed.

    Raises:
        InvalidInput: there are no two that have ended with a loss and an accuracy, or they were not asked for the same.
    """
    require(folder.is_dir(), "folder", str(folder), "a folder of training runs")
    runs = []
    for path in sorted(folder.iterdir()):
        there = RunFolder(path)
        said, summary = there.read(there.config), there.read(there.summary)
        if said is None or summary is None or not summary["accuracy"] or summary["final_loss"] is None:
            continue
        settings = said["settings"]
        asked = {name: value for name, value in settings.items() if name not in OWN}
        asked |= {"data": PurePath(settings["data"]).name, "changes": said["changes"]}
        runs.append(Run(path.name, settings["framework"], settings["seed"], there.lines(), summary, asked))
    require(len(runs) >= 2, "folder", str(folder), "one with at least two runs that have ended and were evaluated")
    first = runs[0]
    for run in runs[1:]:
        differing = [name for name, value in run.asked.items() if value != first.asked.get(name)]
        if differing:
            what = ", ".join(f"{name} {run.asked[name]!r} and {first.asked.get(name)!r}" for name in differing)
            raise InvalidInput(f"{run.name} and {first.name} were asked for different things ({what})")
    return sorted(runs, key=lambda run: (_order(run.framework), run.seed))


def figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Means and standard deviations over seeds, and the differences between frameworks beside them."""
    groups = {name: [run for run in runs if run.framework == name] for name in dict.fromkeys(r.framework for r in runs)}
    rows = [
        {
            "framework": name,
            "runs": len(group),
            "seeds": [run.seed for run in group],
            "knn_top1": _spread([run.accuracy["knn_top1"] for run in group]),
            "linear_top1": _spread([run.accuracy["linear_top1"] for run in group]),
            "final_loss": _spread([run.summary["final_loss"] for run in group]),
        }
        for name, group in groups.items()
    ]
    pairs = [_pair(one, other) for one, other in itertools.combinations(rows, 2)]
    beside = runs[0].summary["accuracy"]
    return {
        "asked": runs[0].asked,
        "split": beside["split"],
        "raw_knn_top1": beside["raw_pixels"]["knn_top1"],
        "random_knn_top1": _spread([run.summary["accuracy"]["random_weights"]["knn_top1"] for run in runs])["mean"],
        "ln_k": runs[0].summary["ln_k"],
        "frameworks": rows,
        "pairs": pairs,
        "sentences": [_sentence(pair) for pair in pairs],
    }


def draw(runs: Sequence[Run], png: Path, svg: Path) -> None:
    """Loss and kNN accuracy against epochs: a line for each run in its framework's colour."""
    with plots.style():
        figure = Figure(figsize=(2 * plots.WIDTH + 1.2, plots.HEIGHT + 1.1))
        loss, accuracy = figure.subplots(1, 2)
        handles = {}
        for run in runs:
            colour, _, marker = plots.LOOKS.get(run.framework, plots.OTHERS[0])
            epochs, losses = _thinned(*run.curve("loss"))
            (line,) = loss.plot(epochs, losses, color=colour, lw=0.9, alpha=0.8)
            epochs, values = run.curve("knn_top1")
            final = run.accuracy["knn_top1"]
            last = run.lines[-1]["epoch"] if run.lines else 0
            if not epochs or epochs[-1] < last:
                epochs, values = [*epochs, last], [*values, final]
            accuracy.plot(epochs, [100 * v for v in values], color=colour, lw=0.9, marker=marker, markersize=3)
            handles[run.framework] = line
        beside = runs[0].summary["accuracy"]
        _level(loss, runs[0].summary["ln_k"], "ln K")
        _level(accuracy, 100 * beside["raw_pixels"]["knn_top1"], "raw pixels")
        _level(accuracy, 100 * beside["random_weights"]["knn_top1"], "random weights")
        loss.set(xlabel="epoch", ylabel="loss (nats)", title="Loss")
        accuracy.set(xlabel="epoch", ylabel="kNN top-1 (%)", title="Nearest neighbours")
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
        write_atomically(png, plots.written(figure, "png"))
        figure.set_layout_engine("none")
        write_atomically(svg, plots.tidy(plots.written(figure, "svg").decode()))


def _level(axes: Axes, value: float, name: str) -> None:
    axes.axhline(value, color=plots.MUTED, lw=1, ls=(0, (4, 2)))
    axes.annotate(name, (1, value), (-2, 2), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right")


def _thinned(x: list[float], y: list[float]) -> tuple[list[float], list[float]]:
    size = -(-len(x) // POINTS)
    parts = range(0, len(x), size) if size else ()
    return [statistics.fmean(x[i : i + size]) for i in parts], [statistics.fmean(y[i : i + size]) for i in parts]


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, sample standard deviation (null of one value), smallest, largest."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation, "min": min(values), "max": max(values)}


def _pair(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The difference of two frameworks' mean kNN accuracy, beside the larger standard deviation over their seeds."""
    spreads = [row["knn_top1"]["std"] for row in (one, other)]
    allowed = None if None in spreads else max(spreads)
    difference = abs(one["knn_top1"]["mean"] - other["knn_top1"]["mean"])
    within = None if allowed is None else difference <= allowed
    names = [one["framework"], other["framework"]]
    return {"frameworks": names, "difference": difference, "seeds_std": allowed, "within": within}


def _sentence(pair: dict[str, Any]) -> str:
    names, difference = " and ".join(pair["frameworks"]), significant(100 * pair["difference"], 2)
    start = f"{names}: mean kNN top-1 differs by {difference} points"
    if pair["within"] is None:
        return f"{start}; with one seed there is no spread to hold it against."
    spread = significant(100 * pair["seeds_std"], 2)
    return f"{start}, {'within' if pair['within'] else 'beyond'} one standard deviation over seeds ({spread})."


def _order(name: str) -> tuple[int, str]:
    return (KNOWN.index(name) if name in KNOWN else len(KNOWN)), name


def _template(name: str) -> str:
    return resources.files("swav_bench").joinpath(f"templates/{name}").read_text(encoding="utf-8")
