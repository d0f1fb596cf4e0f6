"""Plots of a study: each a set of small panels, drawn once for files (PNG, SVG) and once for the page (inline SVG).

An implementation has one colour and one marker everywhere, a mode one line style and one filling of the marker. The
colours are told apart with every common kind of colour blindness; markers say it again. Output is byte-identical for
equal records and an equal matplotlib: no dates, fixed ids.
"""

from __future__ import annotations

import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from swav_bench.records import write_atomically
from swav_bench.tables import MEMORY, METRIC, Contestant, Estimate, Metric, Setting, Study, pick, significant

INK, MUTED, GRID = "#1a1f26", "#5a6471", "#d9dde3"
WIDTH, HEIGHT = 3.6, 2.7
#: implementation -> (colour, colour on dark ground, marker)
LOOKS = {
    "torch": ("#d1550a", "#f0803c", "o"),
    "jax": ("#0067b1", "#5aaeea", "s"),
    "tensorflow": ("#008a65", "#2fc79a", "^"),
    "plain-torch": ("#b3508f", "#e08cc0", "D"),
    "lightly": ("#7d6608", "#e0cf4a", "v"),
}
#: For implementations we do not know, in order of their names.
OTHERS = (("#4b4f9a", "#a3a7f2", "P"), ("#7a4a21", "#c99a6b", "X"), ("#56606e", "#b4bdc9", "*"))
MODE_STYLES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
MODE_FILLS: tuple[Any, ...] = ("full", "none", "left", "bottom")
#: A setting's name beside an axis: characters in a line, and lines at most.
LABEL_WIDTH, LABEL_LINES = 26, 4
#: What stands beside accuracy, as (colour, line style).
REFERENCES = {"raw pixels": (INK, "-"), "random weights": (MUTED, (0, (4, 2))), "chance": (MUTED, (0, (1, 1.5)))}
#: precision -> line style, where those of one implementation lie over each other
PRECISION_STYLES: dict[str, Any] = {
    "float64": (0, (1, 1)),
    "float32": "-",
    "tf32": (0, (4, 1.5)),
    "bfloat16": (0, (1, 1)),
}
#: part of a step -> (colour, colour on dark ground), in the step's order; Tol's muted scheme, dark ones lightened
PARTS = {
    "views": ("#44aa99", "#44aa99"),
    "forward": ("#88ccee", "#88ccee"),
    "queue": ("#ddcc77", "#ddcc77"),
    "sinkhorn": ("#cc6677", "#cc6677"),
    "loss": ("#882255", "#c2558c"),
    "backward": ("#332288", "#7a6ad8"),
    "optimizer": ("#117733", "#3fae62"),
    "rest": ("#b4bcc8", "#6b7480"),
}
STYLE: dict[str, Any] = {
    "svg.hashsalt": "swav-bench",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "path.simplify": False,
}


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: what tells it from its neighbours.
        draw: draws it.
        setting: of which it shows a part, for the page's filters; None where it shows several.
        contestant: the only one that it shows; None where it shows several.
    """

    title: str
    draw: Callable[[Axes], None]
    setting: Setting | None = None
    contestant: Contestant | None = None


@dataclass(frozen=True)
class Plot:
    """A figure: panels with the same axes.

    Attributes:
        name: of its files.
        references: whether it shows raw pixels, random weights and chance.
        parts: (part of a step, number of its colour) of those that it shows, instead of contestants.
        height: of a panel, inches.
    """

    name: str
    title: str
    description: str
    panels: list[Panel]
    references: bool = False
    parts: tuple[tuple[str, int], ...] = ()
    height: float = HEIGHT


@dataclass
class Looks:
    """Colour, marker and line style of each contestant of a study."""

    study: Study
    colours: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        strangers = sorted(set(self.study.implementations) - set(LOOKS))
        self.colours = LOOKS | {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(strangers)}

    def colour(self, contestant: Contestant) -> str:
        return self.colours[contestant.implementation][0]

    def marker(self, contestant: Contestant) -> str:
        return self.colours[contestant.implementation][2]

    def drawn(self, contestant: Contestant) -> dict[str, Any]:
        """Its marker and colour, as matplotlib takes them."""
        shown = {"color": self.colour(contestant), "marker": self.marker(contestant)}
        return shown | {"fillstyle": self.fill(contestant), "markerfacecoloralt": "none"}

    def line(self, contestant: Contestant) -> Any:
        return MODE_STYLES[self._mode(contestant) % len(MODE_STYLES)]

    def fill(self, contestant: Contestant) -> Any:
        return MODE_FILLS[self._mode(contestant) % len(MODE_FILLS)]

    def _mode(self, contestant: Contestant) -> int:
        alike = [other for other in self.study.contestants if other.implementation == contestant.implementation]
        return alike.index(contestant)

    def index(self, contestant: Contestant) -> int:
        return self.study.contestants.index(contestant)


def plots(study: Study) -> list[Plot]:
    """The plots that the study has figures for."""
    looks = Looks(study)
    memory = next((METRIC[key] for key in MEMORY if _has(study, key)), None)
    found = [
        _against_batch(study, looks, METRIC["samples_per_s"], "throughput"),
        _against_batch(study, looks, memory, "memory") if memory else None,
        _parts(study),
        _by_setting(study, looks, [METRIC["first_step"]], "first-step", "Time to first step", log=True),
        _against_batch(study, looks, METRIC["energy"], "energy"),
        _accuracy_against(study, looks, "train_s", "training time (s)", "accuracy-time", "training time"),
        _accuracy_against(study, looks, "samples", "images trained on", "accuracy-samples", "samples"),
        _by_setting(study, looks, [METRIC["knn"], METRIC["linear"]], "accuracy", "Accuracy at each setting"),
        _loss_curves(study, looks),
        _loss_by_precision(study, looks),
        _front(study, looks),
    ]
    return [plot for plot in found if plot is not None]


def save(study: Study, plot: Plot, folder: Path) -> list[Path]:
    """Writes <folder>/<name>.png and .svg: all panels on one sheet, with a legend."""
    columns = min(len(plot.panels), 2 if len(plot.panels) in (2, 4) else 3)
    lines = math.ceil(len(plot.panels) / columns)
    with style():
        figure = Figure(figsize=(WIDTH * columns + 0.2, plot.height * lines + 0.9))
        grid = figure.subplots(lines, columns, squeeze=False)
        for number, axes in enumerate(grid.flat):
            if number < len(plot.panels):
                axes.set_title(_brief(plot.panels[number].title), fontsize=9, color=INK)
                plot.panels[number].draw(axes)
            else:
                axes.set_axis_off()
        figure.suptitle(plot.title, fontsize=11, fontweight="bold", color=INK)
        handles = _handles(study, plot)
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 2 * columns))
        paths = [folder / f"{plot.name}.png", folder / f"{plot.name}.svg"]
        write_atomically(paths[0], written(figure, "png"))
        # The layout has been found; finding it again for the second file would give the same, slowly.
        figure.set_layout_engine("none")
        write_atomically(paths[1], tidy(written(figure, "svg").decode()))
    return paths


def inline(study: Study, panel: Panel, plot: Plot, prefix: str) -> Markup:
    """The panel as SVG for the page: colours are the page's variables, text is the page's, ids are its own.

    Args:
        study: whose panel it is.
        panel: to be drawn.
        plot: that it is a part of.
        prefix: unique on the page, put before ids.
    """
    with style():
        figure = Figure(figsize=(WIDTH, plot.height))
        panel.draw(figure.subplots())
        text = tidy(written(figure, "svg", transparent=True).decode())
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'id="contestant(\d+)"', r'data-series="\1"', text)
    text = re.sub(r'\bid="(?!contestant)([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    label = escape(f"{plot.title}, {panel.title}")
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    colours = {INK: "ink", MUTED: "muted", GRID: "grid"} | {
        light: f"c{number}" for number, (light, _, _) in enumerate(Looks(study).colours.values())
    }
    if plot.parts:
        colours |= {light: f"part{number}" for number, (light, _) in enumerate(PARTS.values())}
    text = re.sub(r"#[0-9a-f]{6}\b", lambda m: f"var(--{colours[m[0]]})" if m[0] in colours else m[0], text)
    # The label was escaped above and matplotlib escapes what it writes.
    return Markup(text.strip())  # noqa: S704


def palette(study: Study) -> list[tuple[str, str, str]]:
    """(variable, colour on light ground, on dark) for the page's style sheet."""
    contestants = [(f"c{number}", light, dark) for number, (light, dark, _) in enumerate(Looks(study).colours.values())]
    return contestants + [(f"part{number}", *colours) for number, colours in enumerate(PARTS.values())]


def swatch(study: Study, contestant: Contestant) -> Markup:
    """The contestant's marker on a piece of its line, for the page's legend."""
    looks = Looks(study)
    number = list(looks.colours).index(contestant.implementation)
    shape = {
        "o": '<circle cx="14" cy="7" r="4"/>',
        "s": '<rect x="10.2" y="3.2" width="7.6" height="7.6"/>',
        "^": '<path d="M14 2.4 18.4 11H9.6z"/>',
        "v": '<path d="M14 11.6 18.4 3H9.6z"/>',
        "D": '<path d="M14 2 19 7 14 12 9 7z"/>',
        "P": '<path d="M12.4 2.5h3.2v2.9h2.9v3.2h-2.9v2.9h-3.2V8.6H9.5V5.4h2.9z"/>',
        "X": '<path d="m11 2.5 3 2.6 3-2.6 1.6 1.6L16 7l2.6 2.9-1.6 1.6-3-2.6-3 2.6-1.6-1.6L12 7 9.4 4.1z"/>',
        "*": '<path d="m14 1.6 1.6 3.6 4 .3-3 2.7.9 3.9-3.5-2-3.5 2 .9-3.9-3-2.7 4-.3z"/>',
    }[looks.marker(contestant)]
    # The line does not show through a marker that is not filled.
    inside = {"full": 1, "none": 0}.get(looks.fill(contestant), 0.5)
    shape = shape[:-2] + ' fill="var(--ground)" stroke="currentColor"/>' + shape[:-2] + f' fill-opacity="{inside}"/>'
    style = looks.line(contestant)
    dashes = "" if style == "-" else f' stroke-dasharray="{" ".join(str(1.4 * part) for part in style[1])}"'
    text = (
        f'<svg class="swatch" viewBox="0 0 28 14"'
        f' aria-hidden="true" fill="currentColor" style="color:var(--c{number})">'
        f'<path d="M1 7H27" stroke="currentColor" stroke-width="1.6"{dashes}/>{shape}</svg>'
    )
    return Markup(text)  # noqa: S704


def _against_batch(study: Study, looks: Looks, metric: Metric, name: str) -> Plot | None:
    """The metric against the batch, with its spread; one panel for each crops x queue."""
    facets = [facet for facet in _facets(study) if _series(study, facet, metric)]
    if not facets:
        return None
    top = max(
        (estimate.high or estimate.value) * metric.scale
        for facet in facets
        for points in _series(study, facet, metric).values()
        for _, estimate in points
    )
    batches = sorted({setting.batch for setting in study.settings})

    def draw(axes: Axes, facet: Setting) -> None:
        for contestant, points in _series(study, facet, metric).items():
            shift = 2 ** (0.05 * (looks.index(contestant) - (len(study.contestants) - 1) / 2))
            x = [setting.batch * shift for setting, _ in points]
            y = [estimate.value * metric.scale for _, estimate in points]
            _points(axes, looks, contestant, x, y, [estimate for _, estimate in points], metric.scale)
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(batches[0] / 1.3, batches[-1] * 1.3)
        axes.set_ylim(0, top * 1.06)
        _thousands(axes)
        axes.set_xlabel("batch (images per step)")
        axes.set_ylabel(f"{metric.title} ({metric.unit})")

    panels = [Panel(study.setting_label(facet), _bind(draw, facet), facet) for facet in facets]
    description = f"{metric.note} Points of one batch stand side by side so that they can be told apart."
    return Plot(name, f"{metric.title} against batch", description, panels)


def _by_setting(
    study: Study, looks: Looks, metrics: Sequence[Metric], name: str, title: str, *, log: bool = False
) -> Plot | None:
    """The metric at every setting: a line of points for each setting."""
    metrics = [metric for metric in metrics if _has(study, metric.key)]
    if not metrics:
        return None
    settings = [s for s in study.settings if any(row.estimate(metrics[0]) for row in study.at(s))][::-1]
    labels = [_wrapped(study.setting_label(setting)) for setting in settings]

    def draw(axes: Axes, metric: Metric) -> None:
        for place, setting in enumerate(settings):
            for reference, path in metric.references:
                value = study.reference(setting, path)
                if value is not None:
                    colour, style = REFERENCES[reference]
                    axes.plot([value * metric.scale] * 2, [place - 0.42, place + 0.42], color=colour, ls=style, lw=1.2)
        for contestant in study.contestants:
            shift = 0.66 / len(study.contestants) * ((len(study.contestants) - 1) / 2 - looks.index(contestant))
            found = [
                (place + shift, estimate)
                for place, setting in enumerate(settings)
                if (row := study.row(setting, contestant)) and (estimate := row.estimate(metric))
            ]
            if found:
                places, estimates = [place for place, _ in found], [estimate for _, estimate in found]
                x = [estimate.value * metric.scale for estimate in estimates]
                _points(axes, looks, contestant, x, places, estimates, metric.scale, across=True, connect=False)
        axes.set_yticks(range(len(settings)), labels, fontsize=7.5)
        axes.set_ylim(-0.6, len(settings) - 0.4)
        axes.tick_params(axis="y", length=0)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: significant(value, 1)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_xlim(0, 100)
        axes.set_xlabel(f"{metric.unit}, log scale" if log else f"top-1 ({metric.unit})")

    panels = [Panel(metric.title, _bind(draw, metric)) for metric in metrics]
    lines = max(label.count("\n") + 1 for label in labels)
    height = max(HEIGHT, 0.9 + max(0.3, 0.1 * len(study.contestants), 0.14 * lines) * len(settings))
    description = " ".join(metric.note for metric in metrics)
    return Plot(name, title, description, panels, references=bool(metrics[0].references), height=height)


def _parts(study: Study) -> Plot | None:
    """Where the step's time goes: stacked bars, a tick at the time of the whole step."""
    found: dict[Setting, list[tuple[str, dict[str, float], float | None]]] = {}
    for row in study.rows:
        measured = [record for _, record in row.records if record["parts"] and record["status"] == "ok"]
        if not measured:
            continue
        # Of several runs the one in the middle, so that its parts belong together.
        measured.sort(key=lambda record: sum(part["s_median"] for part in record["parts"]["parts"]))
        record = measured[(len(measured) - 1) // 2]
        parts = {part["name"]: 1e3 * part["s_median"] for part in record["parts"]["parts"]}
        step = pick(record, ("timing", "step_s_median"))
        name = f"{study.label(row.contestant)}, {row.setting.batch}"
        found.setdefault(row.setting.facet, []).append((name, parts, step and 1e3 * step))
    if not found:
        return None
    shown = [name for name in PARTS if any(name in parts for bars in found.values() for _, parts, _ in bars)]
    longest = max(max(sum(parts.values()), step or 0) for bars in found.values() for _, parts, step in bars)

    def draw(axes: Axes, facet: Setting) -> None:
        bars = found[facet][::-1]
        for place, (_, parts, step) in enumerate(bars):
            left = 0.0
            for name in shown:
                width = parts.get(name, 0.0)
                axes.barh(place, width, left=left, color=PARTS[name][0], height=0.62, edgecolor="none")
                left += width
            if step is not None:
                axes.plot([step, step], [place - 0.42, place + 0.42], color=INK, lw=1.4)
        axes.set_yticks(range(len(bars)), [_brief(name) for name, _, _ in bars], fontsize=7.5)
        axes.set_ylim(-0.6, len(bars) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, longest * 1.04)
        axes.set_xlabel("milliseconds per step")

    panels = [Panel(study.setting_label(facet), _bind(draw, facet), facet) for facet in found]
    methods = {record["parts"]["method"] for record in study.records if record["parts"]}
    how = {
        "separate": "Each part was measured alone, in a program of its own: what a compiler fuses across parts is "
        "counted twice here, so the bars may be longer than the step",
        "profiler": "Parts are from the framework's own trace",
    }
    said = "; ".join(how[method] for method in sorted(methods) if method in how)
    text = f"{said}. The tick is the time of a whole step."
    most = max(len(bars) for bars in found.values())
    legend = tuple((name, list(PARTS).index(name)) for name in shown)
    title = "Where the step's time goes, by implementation and batch"
    return Plot("parts", title, text, panels, parts=legend, height=max(HEIGHT, 0.9 + 0.24 * most))


def _accuracy_against(study: Study, looks: Looks, what: str, axis: str, name: str, title: str) -> Plot | None:
    """Accuracy of kNN against seconds of training, or images trained on: a point for each run."""
    metric = METRIC["knn"]
    found: dict[Setting, dict[Contestant, list[tuple[float, float]]]] = {}
    for row in study.rows:
        for _, record in row.records:
            seconds, value = pick(record, ("learning", "train_s")), pick(record, metric.path)
            if record["status"] == "ok" and seconds is not None and value is not None:
                points = found.setdefault(row.setting.facet, {}).setdefault(row.contestant, [])
                spent = seconds if what == "train_s" else float(record["cell"]["steps"] * record["cell"]["batch"])
                points.append((spent, value * metric.scale))
    if not found:
        return None
    longest = max(spent for series in found.values() for points in series.values() for spent, _ in points)

    def draw(axes: Axes, facet: Setting) -> None:
        inside = [setting for setting in study.settings if setting.facet == facet]
        for reference, path in metric.references:
            values = [v for setting in inside if (v := study.reference(setting, path)) is not None]
            if values:
                colour, style = REFERENCES[reference]
                axes.axhline(sum(values) / len(values) * metric.scale, color=colour, ls=style, lw=1.2)
        for contestant, points in found[facet].items():
            x, y = zip(*points, strict=True)
            _points(axes, looks, contestant, x, y, [], 1, connect=False)
        axes.set_xlim(0, longest * 1.08)
        axes.set_ylim(0, 100)
        _thousands(axes, "x")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(axis)
        axes.set_ylabel("kNN top-1 (%)")

    panels = [Panel(study.setting_label(facet), _bind(draw, facet), facet) for facet in found]
    text = "A point for each run, at the end of its training"
    text += ": from the first step to the last, without evaluation." if what == "train_s" else ": steps times batch."
    return Plot(name, f"Accuracy against {title}", text, panels, references=True)


def _loss_curves(study: Study, looks: Looks) -> Plot | None:
    """Loss against step for each setting, with ln K."""
    found: dict[Setting, list[tuple[Contestant, list[int], list[float]]]] = {}
    for row in study.rows:
        for _, record in row.records:
            points = (record["learning"] or {}).get("loss_curve", [])
            curve = [(step, loss) for step, loss in points if loss is not None]
            if curve:
                steps, losses = map(list, zip(*curve, strict=True))
                found.setdefault(row.setting, []).append((row.contestant, steps, losses))
    if not found:
        return None
    values = [loss for curves in found.values() for _, _, losses in curves for loss in losses]
    limits = [v for setting in found if (v := study.reference(setting, ("learning", "ln_k"))) is not None]
    low, high = min(values), max([*values, *limits])

    def draw(axes: Axes, setting: Setting) -> None:
        limit = study.reference(setting, ("learning", "ln_k"))
        last = max(steps[-1] for _, steps, _ in found[setting])
        if limit is not None:
            axes.axhline(limit, color=INK, lw=1)
            text = f"ln K = {limit:.2f}"
            axes.annotate(text, (last, limit), (0, -3), textcoords="offset points", ha="right", va="top", fontsize=7.5)
        for contestant, steps, losses in found[setting]:
            (line,) = axes.plot(steps, losses, color=looks.colour(contestant), ls=looks.line(contestant), lw=1.2)
            line.set_gid(f"contestant{looks.index(contestant)}")
            (end,) = axes.plot(steps[-1:], losses[-1:], **looks.drawn(contestant))
            end.set_gid(f"contestant{looks.index(contestant)}")
        axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _thousands(axes, "x")
        axes.set_xlabel("training step")
        axes.set_ylabel("loss (nats)")

    panels = [Panel(study.setting_label(setting), _bind(draw, setting), setting) for setting in found]
    text = "Swapped-prediction loss, one line for each run, a marker at its end. A collapsed network stays at ln K."
    return Plot("loss", "Loss during training", text, panels)


def _loss_by_precision(study: Study, looks: Looks) -> Plot | None:
    """Loss of an implementation against step, in each precision that some seed was trained in beside float32."""
    found = study.by_precision
    if not found:
        return None
    curves = {
        (setting, contestant): [
            (precision, [(step, loss) for step, loss in record["learning"]["loss_curve"] if loss is not None])
            for precision, of_seed in runs.items()
            for record in of_seed.values()
        ]
        for (setting, contestant), runs in found.items()
    }
    values = [loss for of_cell in curves.values() for _, curve in of_cell for _, loss in curve]
    low, high = min(values), max(values)

    def draw(axes: Axes, cell: tuple[Setting, Contestant]) -> None:
        named = set()
        for precision, curve in curves[cell]:
            # Of several seeds one is in the legend; it leaves out names that begin with an underscore.
            label = f"_{precision}" if precision in named else precision
            named.add(precision)
            style = PRECISION_STYLES[precision]
            axes.plot(*zip(*curve, strict=True), color=looks.colour(cell[1]), ls=style, lw=1.2, label=label)
        axes.legend(loc="upper right", fontsize=7.5)
        axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _thousands(axes, "x")
        axes.set_xlabel("training step")
        axes.set_ylabel("loss (nats)")

    panels = [
        Panel(
            ", ".join(filter(None, [study.label(contestant), study.setting_label(_without_precision(setting))])),
            _bind(draw, (setting, contestant)),
            setting,
            contestant,
        )
        for setting, contestant in curves
    ]
    text = "The same run (weights, images, crops) in each precision: where lines part, rounding changes what is learnt."
    return Plot("precision", "Loss by precision", text, panels)


def _without_precision(setting: Setting) -> Setting:
    return replace(setting, precision="")


def _front(study: Study, looks: Looks) -> Plot | None:
    """Accuracy against throughput; the line joins the rows that no other row beats in both."""
    speed, metric = METRIC["samples_per_s"], METRIC["knn"]
    found: dict[Setting, list[tuple[Setting, Contestant, float, float]]] = {}
    for row in study.rows:
        fast, good = row.estimate(speed), row.estimate(metric)
        if row.ranked and fast and good:
            point = (row.setting, row.contestant, fast.value, good.value * metric.scale)
            found.setdefault(row.setting.context, []).append(point)
    if not found:
        return None

    def draw(axes: Axes, context: Setting) -> None:
        points = found[context]
        x, y = zip(*pareto([(fast, good) for _, _, fast, good in points]), strict=True)
        axes.plot(x, y, color=MUTED, lw=1, drawstyle="steps-pre", zorder=1)
        for contestant in dict.fromkeys(point[1] for point in points):
            for multi_crop in (True, False):
                mine = [point for point in points if point[1] == contestant and point[0].multi_crop == multi_crop]
                (dots,) = axes.plot(
                    [point[2] for point in mine],
                    [point[3] for point in mine],
                    ls="none",
                    markersize=7 if multi_crop else 4,
                    **looks.drawn(contestant),
                )
                dots.set_gid(f"contestant{looks.index(contestant)}")
        axes.set_xlim(0, max(point[2] for point in points) * 1.08)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        accuracies = [point[3] for point in points]
        axes.set_ylim(max(0, min(accuracies) - 5), min(100, max(accuracies) + 5))
        _thousands(axes, "x")
        axes.set_xlabel("throughput (samples/s)")
        axes.set_ylabel("kNN top-1 (%)")

    panels = [Panel(study.setting_label(context) or "All settings", _bind(draw, context)) for context in found]
    text = (
        "A point for each row of the main table: large with multi-crop, small without. "
        "No row is both faster and more accurate than one on the line. Up and to the right is better."
    )
    return Plot("front", "Speed and accuracy", text, panels)


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (speed, accuracy) points that no other point beats in both, slowest first."""
    front: list[tuple[float, float]] = []
    for point in sorted(points, reverse=True):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front[::-1]


def _points(
    axes: Axes,
    looks: Looks,
    contestant: Contestant,
    x: Sequence[float],
    y: Sequence[float],
    estimates: Sequence[Estimate],
    scale: float,
    *,
    across: bool = False,
    connect: bool = True,
) -> None:
    """Markers with their spread (along y, or x if `across`), joined by a line if asked."""
    colour = looks.colour(contestant)
    (line,) = axes.plot(x, y, ls=looks.line(contestant) if connect else "none", **looks.drawn(contestant))
    line.set_gid(f"contestant{looks.index(contestant)}")
    for at_x, at_y, estimate in zip(x, y, estimates, strict=False):
        if estimate.low is None or estimate.high is None:
            continue
        ends = [estimate.low * scale, estimate.high * scale]
        fixed = [at_y] * 2 if across else [at_x] * 2
        places = (ends, fixed) if across else (fixed, ends)
        (bar,) = axes.plot(*places, color=colour, marker="|" if across else "_", markersize=4, lw=1)
        bar.set_gid(f"contestant{looks.index(contestant)}")


def _handles(study: Study, plot: Plot) -> list[Any]:
    if plot.parts:
        return [Patch(color=PARTS[name][0], label=name) for name, _ in plot.parts]
    looks = Looks(study)
    handles = [
        Line2D([], [], ls=looks.line(c), label=_plain(study.label(c)), **looks.drawn(c)) for c in study.contestants
    ]
    if plot.references:
        handles += [Line2D([], [], color=c, ls=s, lw=1.2, label=name) for name, (c, s) in REFERENCES.items()]
    return handles


def _plain(label: str) -> str:
    # Matplotlib leaves labels that begin with an underscore out of legends.
    return " " + _brief(label) if label.startswith("_") else _brief(label)


def _brief(label: str) -> str:
    """The label, cut where it would leave no room for the plot."""
    return label if len(label) <= 56 else label[:55] + "…"


def _wrapped(label: str) -> str:
    """The label in lines; names that have no spaces are cut anywhere."""
    return "\n".join(textwrap.wrap(label, LABEL_WIDTH, max_lines=LABEL_LINES, placeholder="…"))


def _facets(study: Study) -> list[Setting]:
    return list(dict.fromkeys(setting.facet for setting in study.settings))


def _series(study: Study, facet: Setting, metric: Metric) -> dict[Contestant, list[tuple[Setting, Estimate]]]:
    """Contestant -> its figures within a facet, by batch."""
    series: dict[Contestant, list[tuple[Setting, Estimate]]] = {}
    for row in study.rows:
        if row.setting.facet == facet and row.ranked and (estimate := row.estimate(metric)):
            series.setdefault(row.contestant, []).append((row.setting, estimate))
    return series


def _has(study: Study, key: str) -> bool:
    return any(row.estimate(METRIC[key]) for row in study.rows)


def _thousands(axes: Axes, which: str = "y") -> None:
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _bind(draw: Callable[[Axes, Any], None], what: Any) -> Callable[[Axes], None]:
    return lambda axes: draw(axes, what)


@contextmanager
def style() -> Iterator[None]:
    """Our settings on top of matplotlib's own, whatever the user's are; silent about characters a font lacks."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)  # type: ignore[arg-type]
        yield


def written(figure: Figure, kind: str, *, transparent: bool = False) -> bytes:
    """The figure as a file of that kind, equal for equal figures."""
    program = f"matplotlib {mpl.__version__}"
    metadata = {"Software": program} if kind == "png" else {"Creator": program, "Date": None}
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, dpi=150, metadata=metadata, transparent=transparent)
    return buffer.getvalue()


def tidy(svg: str) -> str:
    """Numbers with two decimals, hundredths of a point: a smaller file, equal on processors that round otherwise."""

    def short(number: re.Match[str]) -> str:
        return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")

    # Within tags only: text such as "0.005" on an axis stays.
    return re.sub(r"<[^>]*>", lambda tag: re.sub(r"(?<![\w#])-?\d+\.\d{3,}", short, tag[0]), svg)
