"""The report of a results folder, made from its records and nothing else: equal records give equal bytes.

report.html is one file: no request leaves it, and it is complete without its few lines of script. report.md has the
same tables, report.csv a line for each record, plots/ the plots.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import html
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jinja2
import matplotlib as mpl
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from swav_bench import plots, records
from swav_bench.asides import aside_tables
from swav_bench.findings import details, headline, listing, scope
from swav_bench.layout import Cell, Filter, Group, Line, Pivot
from swav_bench.records import Record
from swav_bench.tables import (
    MEMORY,
    METRIC,
    Contestant,
    Estimate,
    Metric,
    Row,
    Setting,
    Study,
    common,
    pick,
    spread,
    study,
)

HTML, MARKDOWN, CSV, PLOTS = "report.html", "report.md", "report.csv", "plots"
#: Columns of the main table, where measured; of the three memory figures the first that there is.
MAIN = ("samples_per_s", "overhead", "first_step", MEMORY, "energy", "share_of_peak")
MAIN_LEARNED = ("knn", "linear", "loss")
#: Short names of references, for the small line under a figure.
BESIDE = {"raw pixels": "raw", "random weights": "random", "chance": "chance", "ln K": "ln K"}
STATUS_WORDS = {"oom": "out of memory", "not_run": "not run"}
#: How to read the report.
GLOSSARY = {
    "Setting": (
        "What was asked of every implementation alike: crops, queue, batch and so on. "
        "Only rows of one setting are compared."
    ),
    "Samples/s": (
        "Images per second in the steady state, all crops of an image counted once. The interval is a bootstrap 95 % "
        "interval of the median of the timed blocks; with several runs, the median of runs and their outermost ends."
    ),
    "Fastest, best": (
        "Named only beyond the spread. For samples/s and overhead: the 95 % intervals do not overlap. For the rest: "
        "the ranges over runs do not overlap, and there are enough runs that among equals so clean a split is at most "
        "5 % likely."
    ),
    "Time to first step": (
        "Building the trainer, tracing, compiling and the first step. Paid once, and not part of samples/s."
    ),
    "kNN and linear top-1": (
        "Share of images classified right on frozen features. They mean something only above raw pixels and above the "
        "same network at its random initial weights."
    ),
    "Final loss and ln K": (
        "K is the number of prototypes. A loss that stays at ln K means collapse: nothing was learned."
    ),
    "Outcomes": (
        "Out of memory, timeout, wrong (failed the parity gate), collapsed, error, not run: each is a result, shown "
        "with its reason and never ranked."
    ),
}


def write_report(folder: Path) -> Path:
    """Makes report.html, report.md, report.csv and plots/ in a results folder.

    Args:
        folder: with records.jsonl.

    Returns:
        The path of report.html.

    Raises:
        InvalidInput: there are no records in the folder.
        OSError: the folder cannot be written; each file is written whole or not at all.
    """
    results = records.load(folder)
    data = study(results.records)
    drawn = plots.plots(data)
    (folder / PLOTS).mkdir(exist_ok=True)
    written = {path for plot in drawn for path in plots.save(data, plot, folder / PLOTS)}
    for path in (folder / PLOTS).iterdir():
        if path.suffix in (".png", ".svg") and path not in written:
            path.unlink()
    records.write_atomically(folder / CSV, as_csv(results.records))
    records.write_atomically(folder / MARKDOWN, as_markdown(results, data, drawn))
    records.write_atomically(folder / HTML, as_html(results, data, drawn))
    return folder / HTML


def differences(folder: Path) -> list[str]:
    """Files of a committed report that differ from what its records give, as paths within the folder.

    Text is compared byte for byte, the plots only with the matplotlib that drew them: another version draws the same
    figures with other bytes. In the page, plots are left out of the comparison then.

    Raises:
        InvalidInput: there are no records in the folder.
    """
    with TemporaryDirectory() as scratch:
        fresh = Path(scratch) / folder.resolve().name
        fresh.mkdir()
        for name in (records.RECORDS, records.PLAN):
            if (folder / name).exists():
                (fresh / name).write_bytes((folder / name).read_bytes())
        write_report(fresh)
        made = {path.relative_to(fresh) for path in _report_files(fresh)}
        there = {path.relative_to(folder) for path in _report_files(folder)}
        drawn = [folder / path for path in sorted(there) if path.suffix == ".svg"]
        same_program = all(f"matplotlib {mpl.__version__}<" in path.read_text(encoding="utf-8") for path in drawn)
        different = made ^ there
        for path in made & there:
            if path.parent.name == PLOTS and not same_program:
                continue
            old, new = (folder / path).read_bytes(), (fresh / path).read_bytes()
            if path.name == HTML and not same_program:
                old, new = (re.sub(rb"<svg role.*?</svg>", b"", page, flags=re.DOTALL) for page in (old, new))
            if old != new:
                different.add(path)
    return sorted(path.as_posix() for path in different)


def terminal_tables(found: Sequence[Record]) -> list[Table]:
    """The report's tables for a terminal: the comparison, single operations, largest batches."""
    data = study(found)
    tables = [comparison_table(data)] if data.rows or not data.asides else []
    for pivot in aside_tables(data, str, str, lambda setting: _setting_label(data, setting)):
        table = Table(title=_text(f"{pivot.metric.title} ({pivot.metric.unit})"), title_justify="left")
        table.add_column("size" if pivot.metric.path[0] == "kernels" else "setting", no_wrap=True)
        for label, _ in pivot.columns:
            table.add_column(_text(label), justify="right")
        for line in pivot.lines:
            table.add_row(_text(line.label), *[_terminal(cell) for cell in line.cells])
        tables.append(table)
    return tables


def comparison_table(data: Study) -> Table:
    """The main table for a terminal: a line for each implementation at each setting."""
    columns, groups = main_table(data)
    table = Table(title="SwAV, by setting and implementation", caption=_text(scope(data)), header_style="bold")
    table.add_column("implementation", no_wrap=True)
    for metric in columns:
        table.add_column(Text(f"{metric.title}\n{metric.unit}"), justify="right")
    for group in groups:
        table.add_section()
        table.add_row(_text(group.label, "bold"), *[""] * len(columns))
        for line in group.lines:
            table.add_row(_text(f"{line.label} {line.mode}"), *[_terminal(cell) for cell in line.cells])
    return table


def main_table(data: Study) -> tuple[list[Metric], list[Group]]:
    """Columns and, for each setting, a line for each contestant."""
    measured = {metric.key for metric in data.metrics}
    columns = []
    for choice in (*MAIN, *MAIN_LEARNED):
        names = (choice,) if isinstance(choice, str) else choice
        columns += [METRIC[name] for name in names if name in measured][:1]
    columns = columns or [METRIC["samples_per_s"]]
    keys = Keys(data)
    shared = {metric.key: [name for name, _ in _shared_references(data, metric)] for metric in columns}
    groups = []
    for setting in data.settings:
        lines = []
        for row in data.at(setting):
            cells = [
                _cell(data, row, metric, first=metric == columns[0], said=shared[metric.key]) for metric in columns
            ]
            label, mode = _line_label(data, row.contestant)
            lines.append(Line(label, mode, cells, keys.row(row), [index for index, _ in row.records], row.contestant))
        groups.append(Group(_setting_label(data, setting), keys.setting(setting), lines))
    return columns, groups


def pivots(data: Study) -> list[Pivot]:
    """A table for each metric that was measured."""
    keys = Keys(data)
    made = []
    for metric in data.metrics:
        columns = [(data.label(contestant), keys.contestant(contestant)) for contestant in data.contestants]
        columns += [(name, "") for name, _ in metric.references]
        lines = []
        for setting in data.settings:
            cells = []
            links = []
            for contestant in data.contestants:
                row = data.row(setting, contestant)
                cell = _cell(data, row, metric, first=True) if row else Cell("–", kind="none")
                cells.append(dataclasses.replace(cell, keys=keys.contestant(contestant)))
                links += [index for index, _ in row.records] if row else []
            for _, path in metric.references:
                value = data.reference(setting, path)
                cells.append(Cell("–", kind="none") if value is None else Cell(metric.show(value), kind="reference"))
            if any(cell.kind != "none" for cell in cells):
                lines.append(Line(_setting_label(data, setting), "", cells, keys.setting(setting), links))
        made.append(Pivot(metric, columns, lines))
    return made


def as_csv(found: Sequence[Record]) -> str:
    """A line for each record with every figure in it; full precision, empty where not measured."""
    columns = _csv_columns()
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([".".join(path) for path in columns])
    for record in found:
        writer.writerow([_csv_value(record, path) for path in columns])
    return file.getvalue()


def as_markdown(results: records.Results, data: Study, drawn: Sequence[plots.Plot]) -> str:
    """The report's twin for places that show Markdown."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=False,  # noqa: S701  # Markdown has its own escapes, put on every value by `finalize`
        finalize=_markdown_value,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("report.md.jinja").render(_content(results, data), plots=drawn)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def as_html(results: records.Results, data: Study, drawn: Sequence[plots.Plot]) -> str:
    """The page, complete: style, script, plots and raw records within."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    script = _template("report.js").strip()
    keys = Keys(data)
    figures = []
    for number, plot in enumerate(drawn):
        panels = [
            (panel.title, keys.panel(panel), plots.inline(data, panel, plot, f"p{number}-{index}"))
            for index, panel in enumerate(plot.panels)
        ]
        figures.append((plot, panels))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = environment.from_string(_template("report.css")).render(palette=plots.palette(data))
    page = environment.get_template("report.html.jinja").render(
        _content(results, data),
        figures=figures,
        filters=keys.filters(),
        legend=[(data.label(c), plots.swatch(data, c), keys.contestant(c)) for c in data.contestants],
        swatches={contestant: plots.swatch(data, contestant) for contestant in data.contestants},
        # Both are our own files, not data.
        script=Markup(script),  # noqa: S704
        style=Markup(style),  # noqa: S704
        digest=digest,
    )
    return page.strip() + "\n"


class Keys:
    """Tokens for the page's filters: what is hidden when a box is unticked. Made of numbers, whatever the names are."""

    def __init__(self, data: Study) -> None:
        settings = [*data.settings, *dict.fromkeys(row.setting for row in data.asides)]
        self._data = data
        self._axes = {
            "Implementation": data.implementations,
            "Mode": list(dict.fromkeys(contestant.mode for contestant in data.contestants)),
            "Batch": sorted({str(setting.batch) for setting in settings}, key=int),
            "Crops": list(dict.fromkeys(setting.crops for setting in settings)),
            "Queue": list(dict.fromkeys(_queue(setting) for setting in settings)),
            "Precision": list(dict.fromkeys(setting.precision for setting in settings)),
            "Network": list(dict.fromkeys(_network(setting) for setting in settings)),
            "Input": list(dict.fromkeys(setting.input for setting in settings)),
            "Data set": list(dict.fromkeys(setting.dataset for setting in settings)),
            "Device": list(dict.fromkeys(setting.machine for setting in settings)),
        }

    def setting(self, setting: Setting) -> str:
        return self.facet(setting)

    def facet(self, setting: Setting | None) -> str:
        if setting is None:
            return ""
        batch = {"Batch": str(setting.batch)} if setting.batch else {}
        names = {"Precision": setting.precision, "Network": _network(setting), "Input": setting.input}
        names |= {"Data set": setting.dataset, "Device": setting.machine}
        return self._tokens({**batch, "Crops": setting.crops, "Queue": _queue(setting), **names})

    def panel(self, panel: plots.Panel) -> str:
        of_contestant = [self.contestant(panel.contestant)] if panel.contestant else []
        return " ".join([self.facet(panel.setting), *of_contestant])

    def contestant(self, contestant: Contestant) -> str:
        several = len({c.mode for c in self._data.contestants if c.implementation == contestant.implementation}) > 1
        mode = {"Mode": contestant.mode} if several else {}
        return self._tokens({"Implementation": contestant.implementation, **mode})

    def row(self, row: Row) -> str:
        return f"{self.setting(row.setting)} {self.contestant(row.contestant)}"

    def filters(self) -> list[Filter]:
        """A group for each axis with something to choose from."""
        several = any(len(self.contestant(contestant).split()) > 1 for contestant in self._data.contestants)
        return [
            Filter(title, [(self._tokens({title: value}), value) for value in values])
            for title, values in self._axes.items()
            if len(values) > 1 and (title != "Mode" or several)
        ]

    def _tokens(self, values: dict[str, str]) -> str:
        axes = list(self._axes)
        return " ".join(f"k{axes.index(title)}-{self._axes[title].index(value)}" for title, value in values.items())


def _content(results: records.Results, data: Study) -> dict[str, Any]:
    """What both templates show."""
    columns, groups = main_table(data)
    keys = Keys(data)
    owners = {index: row for row in (*data.rows, *data.asides) for index, _ in row.records}
    failed = [
        (index, record, _setting_label(data, owners[index].setting), keys.row(owners[index]))
        for index, record in enumerate(data.records)
        if record["status"] != "ok"
    ]
    raw = [
        (index, record, data.letters[index], keys.row(owners[index]), json.dumps(record, indent=1))
        for index, record in enumerate(data.records)
    ]
    dates = sorted(record["started_at"][:10] for record in data.records if record["started_at"])
    return {
        "name": results.name,
        "problems": results.problems,
        "scope": scope(data),
        "headline": headline(data),
        "details": details(data),
        "columns": columns,
        "beside": {metric.key: _shared_references(data, metric) for metric in columns},
        "groups": groups,
        "pivots": pivots(data),
        "asides": aside_tables(data, keys.contestant, keys.setting, lambda setting: _setting_label(data, setting)),
        "failed": failed,
        "raw": raw,
        "notes": notes(data),
        "environments": _environment_table(data),
        "implementations": _implementation_table(data),
        "provenance": _provenance(data),
        "dates": " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "",
        "status_words": {status: STATUS_WORDS.get(status, status) for status in records.STATUSES},
        "parity": _parity(data),
        "glossary": GLOSSARY,
        "letters": list(data.environments),
        "suites": list(dict.fromkeys(setting.suite for setting in data.settings)),
    }


def notes(data: Study) -> list[str]:
    """What is fair about the comparison and what is not, as far as the records say."""
    found = []
    if any(setting.device == "cpu" for setting in data.settings):
        found.append(
            "CPU figures are no claim about a framework: they show that the harness works and what this machine does. "
            "Small networks on a CPU measure overheads that a GPU hides, and hide those that it shows."
        )
    found.append(
        "Rows of one setting start from the same weights, see the same pixels in the same order, and compute in the "
        "same precision; each cell ran in a process of its own."
    )
    if any(len(row.records) == 1 and row.status == "ok" for row in data.rows):
        found.append(
            "Where a row has one run, its interval is the spread of the blocks within one process: what changes from "
            "process to process, or from day to day, is not in it."
        )
    if len({(setting.device, setting.machine) for setting in data.settings}) > 1:
        found.append("Rows of different devices stand in different settings and are never ranked against each other.")
    late = sum(1 for record in data.records if pick(record, ("timing", "recompilations")))
    if late:
        found.append(f"{late} of {len(data.records)} cells compiled again after warm-up, within the timed steps.")
    said = Counter(note for record in data.records for note in record["notes"])
    told = [f"{note} ({count} of {len(data.records)} cells)" for note, count in sorted(said.items())]
    return found + _surroundings(data) + _conditions(data) + told


def _surroundings(data: Study) -> list[str]:
    """Compile caches, threads, and what differs between environments and commits."""
    described = [record for record in data.records if record["environment"]["implementation"]]
    found = []
    caches = {record["environment"]["compile_cache"] for record in described}
    if caches == {"off"}:
        found.append("Compile caches were off: the time to first step includes all tracing and compiling.")
    elif caches:
        found.append("Compile caches were warm in some cells: times to first step there are too short to compare.")
    threads = {
        f"{name}={value}"
        for record in described
        for name, value in record["environment"]["variables"].items()
        if "THREAD" in name.upper()
    }
    if threads:
        found.append(f"Threads, as every child process was told: {listing(sorted(threads))}.")
    environments = list(data.environments.values())
    if len(environments) > 1:
        names = {name for fields in environments for name in fields}
        different = sorted(name for name in names if len({fields.get(name) for fields in environments}) > 1)
        found.append(f"Cells ran in {len(environments)} environments, which differ in: {listing(different)}.")
    if len({record["commit"] for record in data.records if record["status"] != "not_run"}) > 1:
        found.append("Cells come from different commits of swav-bench.")
    if any(record["dirty"] for record in data.records):
        found.append("The source tree had changes that were not committed.")
    return found


def _conditions(data: Study) -> list[str]:
    """How busy the CPU was, and what NVML said of the GPU before and after."""
    found = []
    cores = {
        data.label(contestant): [
            value
            for row in data.rows
            if row.contestant == contestant
            for _, record in row.records
            if (value := pick(record, ("timing", "cores_busy"))) is not None
        ]
        for contestant in data.contestants
    }
    parts = [f"{_span(values, '.1f')} ({label})" for label, values in cores.items() if values]
    if parts:
        found.append(f"CPU cores busy over the timed steps: {listing(parts)}.")
    states = [record["energy"][when] for record in data.records if record["energy"] for when in ("before", "after")]
    if not states:
        return found
    reasons = sorted({reason for state in states for reason in state["throttle_reasons"]})
    if reasons:
        found.append(f"The GPU's clock was held back in some cells, by NVML's reasons: {listing(reasons)}.")
    if any(state["other_processes"] for state in states):
        found.append("Other processes computed on the GPU beside some cells; their energy is counted too.")
    for key, name, unit in (("sm_clock_mhz", "GPU clock", "MHz"), ("temperature_c", "GPU temperature", "°C")):
        values = [state[key] for state in states if state[key] is not None]
        if values:
            found.append(f"{name} before and after cells: {_span(values, 'g')} {unit}.")
    return found


def _span(values: Sequence[float], form: str) -> str:
    """Lowest to highest, or the one figure where both show alike."""
    return " to ".join(dict.fromkeys([f"{min(values):{form}}", f"{max(values):{form}}"]))


def _parity(data: Study) -> str:
    """What the parity gate found, in a sentence; empty where it compared nothing."""
    found = [record["parity"] for record in data.records if record["parity"] and record["status"] == "ok"]
    errors = [
        (error, parity[name.replace("_error", "_bound")])
        for parity in found
        for name, error in parity.items()
        if name.endswith("_error") and error is not None
    ]
    if not errors:
        return ""
    worst, bound = max(errors, key=lambda pair: pair[0] / pair[1])
    return (
        "Each cell's first loss and gradients were compared with those of the first implementation to finish its "
        f"configuration. Over {len(found)} cells the closest call was a relative error of {worst:.2g} "
        f"where rounding explains up to {bound:.2g}."
    )


def _cell(data: Study, row: Row, metric: Metric, *, first: bool, said: Sequence[str] | None = None) -> Cell:
    """A row's figure of a metric, or its status where there is none to rank.

    Args:
        data: the study.
        row: of which.
        metric: which.
        first: whether this cell is to tell the row's status (the others then show a dash).
        said: references that are shown elsewhere; None if all are.
    """
    estimate = row.estimate(metric)
    status = STATUS_WORDS.get(row.status, row.status)
    if row.status != "ok" and (first or estimate is None):
        evidence = f"{metric.show(estimate.value)}" if estimate and metric.learned else ""
        return Cell(status, evidence, "status") if first else Cell("–", kind="none")
    if estimate is None:
        return Cell("–", kind="none")
    small = [spread(estimate, metric)]
    for name, path in metric.references:
        values = [v for _, record in row.records if (v := pick(record, path)) is not None]
        if said is not None and name not in said and values:
            small.append(f"{BESIDE[name]} {metric.show(sum(values) / len(values))}")
    if not row.ranked and first:
        small.append(f"{len(row.failures)} of {len(row.records)} runs: {_words(row.failures)}")
    leader = data.leader(row.setting, metric)
    share = _share(data, row, metric, estimate) if metric.key == "samples_per_s" else None
    return Cell(
        metric.show(estimate.value),
        ", ".join(part for part in small if part),
        "" if row.ranked else "unranked",
        best=leader is not None and leader[0] == row,
        share=share,
    )


def _words(statuses: Iterable[str]) -> str:
    """Distinct statuses in words."""
    return listing(dict.fromkeys(STATUS_WORDS.get(status, status) for status in statuses))


def _share(data: Study, row: Row, metric: Metric, estimate: Estimate) -> float | None:
    if not row.ranked:
        return None
    return estimate.value / max(other.value for _, other in data.ranking(row.setting, metric))


def _shared_references(data: Study, metric: Metric) -> list[tuple[str, str]]:
    """(name, figure) of references that are the same in the whole study: shown once, in the column's header."""
    found = []
    for name, path in metric.references:
        value = common((pick(record, path) for record in data.records), metric.show)
        if value is not None:
            found.append((name, value))
    return found


def _line_label(data: Study, contestant: Contestant) -> tuple[str, str]:
    """Name and mode, always both: the mode is an axis of the comparison."""
    environment = data.label(contestant).removeprefix(contestant.implementation).removeprefix(f" {contestant.mode}")
    return contestant.implementation + environment, "" if contestant.mode == "default" else contestant.mode


def _setting_label(data: Study, setting: Setting) -> str:
    return data.setting_label(setting) or "All"


def _queue(setting: Setting) -> str:
    return "with queue" if setting.queue_rows else "no queue"


def _network(setting: Setting) -> str:
    return setting.network or "the recipe's"


def _environment_table(data: Study) -> list[tuple[str, list[tuple[str, int]]]]:
    """(field, [(value, columns it spans)]) over the environments."""
    fields = list(dict.fromkeys(field for fields in data.environments.values() for field in fields))
    table = []
    for field in fields:
        values = [fields.get(field, "–") for fields in data.environments.values()]
        same = len(set(values)) == 1
        table.append((field, [(values[0], len(values))] if same else [(value, 1) for value in values]))
    return table


def _implementation_table(data: Study) -> list[dict[str, str]]:
    """What each implementation said of itself, once for each distinct answer."""
    found: dict[str, dict[str, str]] = {}
    for record, letter in zip(data.records, data.letters, strict=True):
        described = record["environment"]["implementation"]
        if not described:
            continue
        flags = ", ".join(f"{name}={value}" for name, value in sorted((described.get("flags") or {}).items()))
        line = {
            "implementation": record["cell"]["implementation"],
            "framework": f"{described.get('framework', '')} {described.get('version', '')}".strip(),
            "mode": str(described.get("mode", "")),
            "device": str(described.get("device", "")),
            "precision": str(described.get("precision", "")),
            "compiler": str(described.get("compiler") or "none"),
            "flags": flags or "none",
            "environment": letter,
        }
        found.setdefault(json.dumps(line), line)
    return list(found.values())


def _provenance(data: Study) -> list[str]:
    """Version and commit of swav-bench behind the records."""
    found = []
    for record in data.records:
        if record["status"] == "not_run":
            continue
        state = {True: ", with uncommitted changes", False: "", None: ""}[record["dirty"]]
        commit = f"commit {record['commit'][:12]}" if record["commit"] else "outside of a source tree"
        found.append(f"swav-bench {record['swav_bench_version']}, {commit}{state}")
    return list(dict.fromkeys(found))


#: Groups of a record that report.csv has columns for.
CSV_GROUPS = (
    "cell",
    "data",
    "timing",
    "memory",
    "largest_batch",
    "energy",
    "work",
    "overhead",
    "parity",
    "learning",
    "accuracy",
)


def _csv_columns() -> list[tuple[str, ...]]:
    """Status, then every number, text and truth value of the schema's groups, in the schema's order."""
    text = resources.files("swav_bench").joinpath(f"schema/record-{records.SCHEMA}.json").read_text(encoding="utf-8")
    properties = json.loads(text)["properties"]
    columns: list[tuple[str, ...]] = [("status",), ("reason",)]
    for group in CSV_GROUPS:
        columns += _leaves(properties[group]["properties"], (group,))
    columns += [("environment", name) for name in ("os", "architecture", "cpu", "cpu_count", "python", "compile_cache")]
    columns += [("environment", "implementation", name) for name in ("framework", "version", "device", "mode")]
    return [*columns, ("started_at",), ("wall_s",), ("commit",), ("dirty",), ("swav_bench_version",)]


def _leaves(fields: dict[str, Any], path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Paths of the single values among a schema's fields; lists are left to records.jsonl."""
    found: list[tuple[str, ...]] = []
    for name, field in fields.items():
        if "properties" in field:
            found += _leaves(field["properties"], (*path, name))
        elif "array" not in field.get("type", ()):
            found.append((*path, name))
    return found


def _csv_value(record: Record, path: tuple[str, ...]) -> str:
    value: Any = record
    for key in path:
        value = None if value is None else value.get(key)
    if value is None:
        return ""
    if isinstance(value, str):
        # Spreadsheets run texts that begin like this as formulas.
        return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
    return json.dumps(value)


def _markdown_value(value: Any) -> Any:
    """Text that Markdown shows as it is: no tags, links, table cells or code of its own."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    flat = html.escape(" ".join(value.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", flat)


def _terminal(cell: Cell) -> Text:
    styles = {"status": "bold red", "none": "dim"}
    text = Text(cell.text, style=styles.get(cell.kind, "bold green" if cell.best else ""))
    return text.append(f"\n{cell.small}", style="dim") if cell.small else text


def _text(value: str, style: str = "") -> Text:
    """Text that is shown as it is: no markup of Rich's in it counts, and control characters are dropped."""
    return Text("".join(character for character in value if character.isprintable()), style=style)


def _template(name: str) -> str:
    return resources.files("swav_bench").joinpath(f"templates/{name}").read_text(encoding="utf-8")


def _report_files(folder: Path) -> list[Path]:
    paths = [folder / name for name in (HTML, MARKDOWN, CSV)]
    return [path for path in [*paths, *sorted((folder / PLOTS).glob("*.*"))] if path.is_file()]
