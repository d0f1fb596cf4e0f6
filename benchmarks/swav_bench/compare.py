"""`swav-bench compare BEFORE AFTER`: what got faster, slower, bigger or less accurate beyond the noise.

Cells are matched by all that they ask for but suite, seed and repeat, and only on the same device. A process is the
unit: blocks of one process share its memory layout, its clocks and what its compiler chose, so that their spread says
little about the next process. Of accuracy the unit is a seed. The rule, for each figure of each pair of cells:

    d = mean log(value) of the processes after - the same before
    interval = d +- q s sqrt(1 / processes before + 1 / processes after)

s is the spread (standard deviation of log values) between processes of one cell: its own, or if that is larger the one
pooled over all cells of the comparison for this kind of figure; q is the quantile of Student's t for the pooled degrees
of freedom. With fewer than FEWEST of those, the spread is not known and ASSUMED ones stand in for it (q then of the
normal distribution), widened by what a process's own blocks tell of its median; `--repeats 5` makes them known. q is
shared out (Bonferroni) so that all intervals together hold in 95 of 100 comparisons: two runs of the same thing are
told apart in at most 5 of 100. A change is flagged if its interval excludes none and it is larger than LEAST, as one
machine differs from itself from day to day by about that much.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from swav_bench import records
from swav_bench.cells import cell_title
from swav_bench.progress import printable
from swav_bench.records import Record, Results
from swav_bench.timing import median_interval
from swav_spec.errors import InvalidInput, require

#: All intervals of a comparison together hold in this share of comparisons.
LEVEL = 0.95
#: Smaller changes are not flagged.
LEAST = 0.02
#: Degrees of freedom from which on the spread between processes counts as known.
FEWEST = 4
#: Fields of a cell in which matched cells may differ.
FREE = ("id", "suite", "seed", "repeat", "queue")
Verdict = Literal["worse", "better", "same"]


@dataclass(frozen=True)
class Kind:
    """Figures that are judged alike.

    Attributes:
        assumed: spread between processes of one cell (standard deviation of log values) where it is not known.
        sign: 1 where more is worse, -1 where less is.
        worse, better: in a word.
    """

    assumed: float
    sign: int
    worse: str
    better: str


TIME = Kind(0.02, 1, "slower", "faster")
START = Kind(0.10, 1, "slower to start", "faster to start")
MEMORY = Kind(0.02, 1, "bigger", "smaller")
ENERGY = Kind(0.03, 1, "hungrier", "thriftier")
# Twice what the roundings of three frameworks alone make of one seed in the demo.
ACCURACY = Kind(0.04, -1, "less accurate", "more accurate")
CAPACITY = Kind(0.02, -1, "smaller largest batch", "larger largest batch")
_ACCURACY = {"knn_top1": "kNN top-1", "linear_top1": "linear top-1"}
_MEMORY = {
    "allocator_peak_bytes": "peak memory of the allocator, bytes",
    "nvml_process_bytes": "GPU memory by NVML, bytes",
    "process_peak_bytes": "peak main memory, bytes",
}


class Value(NamedTuple):
    """A figure of one process: its value, and the blocks that it is the median of, where there are any."""

    kind: Kind
    value: float
    blocks: Sequence[float] | None = None


@dataclass(frozen=True)
class Change:
    """A figure of a pair of cells.

    Attributes:
        cell: in words.
        before, after: geometric means over processes.
        processes: how many before and after.
        change, low, high: relative change and its interval; .1 is ten per cent more.
        verdict: whether it is beyond the noise, and which way.
        word: for the verdict, such as "slower".
    """

    cell: str
    figure: str
    before: float
    after: float
    processes: tuple[int, int]
    change: float
    low: float
    high: float
    verdict: Verdict
    word: str


@dataclass(frozen=True)
class Outcome:
    """A cell that ended well more or less often than before: `before` and `after` say how its processes ended."""

    cell: str
    before: str
    after: str
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """Two folders of results, side by side.

    Attributes:
        changes: every figure that both have, in the order of the earlier folder.
        outcomes: cells whose processes ended otherwise.
        missing, new: cells that only one of them has measured.
        context: what else differs between the two: versions, driver, settings, commit.
        notes: what a reader should know about the intervals.
    """

    changes: list[Change]
    outcomes: list[Outcome]
    missing: list[str]
    new: list[str]
    context: list[str]
    notes: list[str]

    def worse(self, margin: float) -> list[Change | Outcome]:
        """Flagged changes for the worse that are larger than `margin`, and outcomes that are worse."""
        changes = [item for item in self.changes if item.verdict == "worse" and _size(item) > margin]
        return [*changes, *(item for item in self.outcomes if item.verdict == "worse")]


def compare(before: Results, after: Results) -> Comparison:
    """What differs from `before` to `after`; the rule is the module's.

    Raises:
        InvalidInput: they were measured on different devices, or have no cell in common.
    """
    old, new = _by_cell(before.records), _by_cell(after.records)
    machines = [{key[0] for key in cells} for cells in (old, new)]
    if machines[0] and machines[1] and not machines[0] & machines[1]:
        names = [", ".join(sorted(found)) for found in machines]
        raise InvalidInput(
            f"{before.name} was measured on {names[0]}, {after.name} on {names[1]}: "
            "figures of different devices are not compared"
        )
    shared = [key for key in old if key in new]
    require(bool(shared), "cells in common", f"none of {before.name} and {after.name}", "at least one")
    pairs = [
        (title, name, values, other[name])
        for key in shared
        for title, one, other in [(_title(old[key]), _values(old[key]), _values(new[key]))]
        for name, values in one.items()
        if name in other
    ]
    spreads = _pooled(pairs)
    changes = [
        _change(title, name, values, other, spreads[values[0].kind], len(pairs)) for title, name, values, other in pairs
    ]
    outcomes = (_outcome(_title(old[key]), old[key], new[key]) for key in shared)
    return Comparison(
        changes=changes,
        outcomes=[outcome for outcome in outcomes if outcome],
        missing=[_title(found) for key, found in old.items() if key not in new],
        new=[_title(found) for key, found in new.items() if key not in old],
        context=_context(before, after),
        notes=_notes(spreads),
    )


def _by_cell(found: Iterable[Record]) -> dict[tuple[Any, ...], list[Record]]:
    """Device and what a cell asks for -> the records of it, without those that were not run."""
    cells: dict[tuple[Any, ...], list[Record]] = {}
    for record in found:
        if record["status"] != "not_run":
            asked = sorted((name, value) for name, value in record["cell"].items() if name not in FREE)
            cells.setdefault((records.machine(record), *asked), []).append(record)
    return cells


def _title(found: Sequence[Record]) -> str:
    return cell_title(found[0]["cell"] | {"seed": 0, "repeat": 0})


def _values(found: Iterable[Record]) -> dict[str, list[Value]]:
    """Figure -> its value in each process that ended well; of accuracy, in each seed."""
    values: dict[str, dict[int, list[Value]]] = {}
    for number, record in enumerate(record for record in found if record["status"] == "ok"):
        for name, value in _figures(record):
            if value.value > 0:
                # Processes of one seed learn the same: how accuracy varies, only seeds tell.
                unit = record["cell"]["seed"] if value.kind is ACCURACY else number
                values.setdefault(name, {}).setdefault(unit, []).append(value)
    return {
        name: [Value(of[0].kind, statistics.fmean(value.value for value in of), of[0].blocks) for of in units.values()]
        for name, units in values.items()
    }


def _figures(record: Record) -> Iterable[tuple[str, Value]]:
    timing, memory, energy, accuracy, largest = (
        record[part] for part in ("timing", "memory", "energy", "accuracy", "largest_batch")
    )
    if largest and timing:
        per_block = timing["steps_per_block"] * record["config"]["batch"]
        blocks = [seconds / per_block for seconds in timing["block_s"]]
        yield "with the largest batch, s a sample", Value(TIME, statistics.median(blocks), blocks)
    elif timing:
        yield "step, s", Value(TIME, timing["step_s_median"], timing["block_s"])
        yield "time to first step, s", Value(START, timing["time_to_first_step_s"])
    # With the largest batch that fits, it is about all that there is.
    for name, title in _MEMORY.items() if memory and not largest else ():
        if memory[name] is not None:
            yield title, Value(MEMORY, memory[name])
            break
    if energy:
        yield "energy, J a sample", Value(ENERGY, energy["joules_per_sample"])
    for name, title in _ACCURACY.items() if accuracy else ():
        if accuracy[name] is not None:
            yield title, Value(ACCURACY, accuracy[name])
    if largest and largest["batch"]:
        yield "largest batch that fits", Value(CAPACITY, largest["batch"])
    for kernel in record["kernels"] or ():
        yield f"{kernel['name']} {kernel['size']}, s", Value(TIME, kernel["call_s_median"], kernel["block_s"])


class _Spread(NamedTuple):
    """Between processes of one cell, over all cells of a comparison: squares summed, and their degrees of freedom."""

    squares: float
    freedom: int

    @property
    def known(self) -> bool:
        return self.freedom >= FEWEST


def _pooled(pairs: Iterable[tuple[str, str, Sequence[Value], Sequence[Value]]]) -> dict[Kind, _Spread]:
    pooled: dict[Kind, _Spread] = {}
    for _, _, before, after in pairs:
        kind = before[0].kind
        squares, freedom = pooled.get(kind, _Spread(0.0, 0))
        for values in (before, after):
            logs = _logs(values)
            squares += statistics.pvariance(logs) * len(logs)
            freedom += len(logs) - 1
        pooled[kind] = _Spread(squares, freedom)
    return pooled


def _change(
    cell: str, figure: str, before: Sequence[Value], after: Sequence[Value], pooled: _Spread, tests: int
) -> Change:
    kind, (old, new) = before[0].kind, (_logs(values) for values in (before, after))
    counts = len(old), len(new)
    own_freedom = sum(counts) - 2
    own = sum(statistics.pvariance(logs) * len(logs) for logs in (old, new)) / own_freedom if own_freedom else 0.0
    chance = 1 - (1 - LEVEL) / 2 / tests
    among_processes = sum(1 / count for count in counts)
    if pooled.known:
        variance = max(own, pooled.squares / pooled.freedom) * among_processes
        quantile = student_quantile(chance, pooled.freedom)
    else:
        variance = max(own, kind.assumed**2) * among_processes
        variance += sum(_block_error(value) ** 2 / len(values) ** 2 for values in (before, after) for value in values)
        quantile = statistics.NormalDist().inv_cdf(chance)
    difference = statistics.fmean(new) - statistics.fmean(old)
    half = quantile * math.sqrt(variance)
    changed = abs(difference) > half and abs(math.expm1(difference)) > LEAST
    verdict: Verdict = "same" if not changed else "worse" if difference * kind.sign > 0 else "better"
    return Change(
        cell=cell,
        figure=figure,
        before=math.exp(statistics.fmean(old)),
        after=math.exp(statistics.fmean(new)),
        processes=counts,
        change=math.expm1(difference),
        low=math.expm1(difference - half),
        high=math.expm1(difference + half),
        verdict=verdict,
        word={"worse": kind.worse, "better": kind.better, "same": ""}[verdict],
    )


def _logs(values: Iterable[Value]) -> list[float]:
    return [math.log(value.value) for value in values]


def _block_error(value: Value) -> float:
    """Standard error of the log of a median of blocks, from its bootstrap interval."""
    if not value.blocks:
        return 0.0
    _, low, high = median_interval(value.blocks)
    return math.log(high / low) / (2 * statistics.NormalDist().inv_cdf(0.975))


def student_quantile(chance: float, freedom: int) -> float:
    """Where Student's t with `freedom` degrees of freedom stays below with this chance, in (.5, 1).

    With t = sqrt(freedom) tan(a) the density is proportional to cos(a)^(freedom - 1), which is summed up.
    """
    angle = np.linspace(0, np.pi / 2, 200_001)
    density = np.cos(angle) ** (freedom - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(math.sqrt(freedom) * np.tan(np.interp(2 * chance - 1, mass / mass[-1], angle)))


def _outcome(title: str, before: Sequence[Record], after: Sequence[Record]) -> Outcome | None:
    good = [sum(record["status"] == "ok" for record in found) / len(found) for found in (before, after)]
    old, new = _endings(before), _endings(after)
    if good[0] == good[1] and old == new:
        return None
    verdict: Verdict = "same" if good[0] == good[1] else "worse" if good[1] < good[0] else "better"
    return Outcome(title, old, new, verdict)


def _endings(found: Sequence[Record]) -> str:
    """Such as "ok", or "error: exit code 7"."""
    endings = {record["status"] + (f": {record['reason']}" if record["reason"] else "") for record in found}
    return "; ".join(sorted(endings))


def _context(before: Results, after: Results) -> list[str]:
    old, new = (_facts(results.records) for results in (before, after))
    lines = []
    for name in sorted(old.keys() | new.keys()):
        one, other = (", ".join(sorted(facts.get(name, {"none"}))) for facts in (old, new))
        if one != other:
            lines.append(f"{name}: {one} → {other}")
    return lines


def _facts(found: Iterable[Record]) -> dict[str, set[str]]:
    """What the surroundings of a measurement are called -> all that they were."""
    facts: dict[str, set[str]] = {}

    def add(name: str, value: object) -> None:
        facts.setdefault(name, set()).add(str(value))

    for record in found:
        if record["status"] == "not_run":
            continue
        here = record["environment"]
        for name in ("os", "python", "compile_cache"):
            add(name, here[name])
        add("commit", f"{str(record['commit'])[:10]}{' with changes' if record['dirty'] else ''}")
        for name, value in itertools.chain(here["packages"].items(), here["variables"].items()):
            add(name, value)
        for gpu in here["gpus"]:
            add("driver", gpu["driver"])
            add("power limit, W", gpu["power_limit_w"])
        described = here["implementation"] or {}
        for name, value in (described.get("flags") or {}).items():
            add(f"{record['cell']['implementation']}'s {name}", value)
    return facts


def _notes(spreads: Mapping[Kind, _Spread]) -> list[str]:
    notes = []
    for kind, pooled in spreads.items():
        about = f"{kind.worse} or {kind.better}"
        if pooled.known:
            spread = math.sqrt(pooled.squares / pooled.freedom)
            notes.append(f"{about}: processes of one cell differ by {spread:.2%} ({pooled.freedom} degrees of freedom)")
        else:
            notes.append(f"{about}: processes are assumed to differ by {kind.assumed:.0%}; --repeats 5 measures it")
    return notes


def _size(change: Change) -> float:
    """How much worse or better, as a share of what it was."""
    return abs(change.change)


def show(comparison: Comparison, console: Console, *, everything: bool = False) -> None:
    """Prints a comparison: what has changed, or every figure."""
    for line in comparison.context:
        console.print(Text(f"differs: {printable(line)}", style="dim"), soft_wrap=True)
    shown = [change for change in comparison.changes if everything or change.verdict != "same"]
    if shown:
        table = Table("cell", "figure", "before", "after", "change", "interval", "processes", "")
        for change in shown:
            table.add_row(
                Text(printable(change.cell)),
                Text(printable(change.figure)),
                f"{change.before:.4g}",
                f"{change.after:.4g}",
                f"{change.change:+.1%}",
                f"{change.low:+.1%} to {change.high:+.1%}",
                f"{change.processes[0]}, {change.processes[1]}",
                Text(change.word, style={"worse": "red", "better": "green"}.get(change.verdict, "")),
            )
        console.print(table)
    for outcome in comparison.outcomes:
        words = f"{outcome.verdict}: {outcome.cell}: {outcome.before} → {outcome.after}"
        console.print(Text(printable(words), style="red" if outcome.verdict == "worse" else ""), soft_wrap=True)
    for name, cells in (("before", comparison.missing), ("after", comparison.new)):
        for cell in cells:
            console.print(Text(f"only {name}: {printable(cell)}", style="dim"), soft_wrap=True)
    for note in comparison.notes:
        console.print(Text(note, style="dim"), soft_wrap=True)
    console.print(Text(summary(comparison)), soft_wrap=True)


def summary(comparison: Comparison) -> str:
    """In one sentence."""
    words: dict[str, int] = {}
    for change in comparison.changes:
        if change.word:
            words[change.word] = words.get(change.word, 0) + 1
    counted = ", ".join(f"{count} {word}" for word, count in words.items()) or "none"
    failing = sum(outcome.verdict == "worse" for outcome in comparison.outcomes)
    failed = f"; {failing} cells no longer end well" if failing else ""
    return f"Beyond the noise in {len(comparison.changes)} figures: {counted}{failed}."


def as_json(comparison: Comparison) -> str:
    """The comparison as JSON, for other programs."""
    return json.dumps(dataclasses.asdict(comparison), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def share(given: str) -> float:
    """A share such as 5% or 0.05.

    Raises:
        InvalidInput: it is neither, or negative.
    """
    number, percent, rest = given.partition("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    require(value >= 0 and not rest and math.isfinite(value), "fail-over", given, "a share, e.g. 5% or 0.05")
    return value


def command(
    before: Annotated[Path, typer.Argument(help="A folder of results.", show_default=False)],
    after: Annotated[Path, typer.Argument(help="Another, measured on the same device.", show_default=False)],
    fail_over: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="Exit code 1 if a figure is worse by more than this, e.g. 5%.", show_default=False
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show figures that have not changed, too.")] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every figure here, too.", show_default=False)
    ] = None,
) -> None:
    """Say what got faster, slower, bigger or less accurate from one folder of results to another, beyond the noise.

    Exit code 0: nothing is worse by more than --fail-over; 1: something is, or a cell no longer ends well; 2: the two
    cannot be compared.
    """
    margin = None if fail_over is None else share(fail_over)
    compared = compare(records.load(before), records.load(after))
    if json_path:
        try:
            records.write_atomically(json_path, as_json(compared))
        except OSError as error:
            raise InvalidInput(f"json = {str(json_path)!r}: cannot be written ({error.strerror})") from None
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    show(compared, console, everything=everything)
    if margin is not None and compared.worse(margin):
        raise typer.Exit(1)
