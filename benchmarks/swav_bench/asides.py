"""Tables of what is not a run of SwAV: single operations at given sizes, and the largest batch that fits."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from swav_bench.layout import Cell, Line, Pivot
from swav_bench.tables import LARGEST_BATCH, Contestant, Metric, Row, Setting, Study, significant

NOTHING = Cell("–", kind="none")
#: What one operation is, for its table's note.
KERNELS = {
    "sinkhorn": "Scores to codes, samples x prototypes.",
    "swapped_loss": "The loss and its gradient, views x samples x prototypes.",
    "views": "Pixels to views.",
    "larc_sgd": "One update of every tensor.",
}


def aside_tables(
    study: Study,
    keys: Callable[[Contestant], str],
    setting_keys: Callable[[Setting], str],
    label: Callable[[Setting], str],
) -> list[Pivot]:
    """A table for each kernel, sizes down, and one of the largest batches, settings down; across, who took part.

    Args:
        study: the records.
        keys, setting_keys: tokens for the page's filters.
        label: of a setting.
    """
    of_task = {task: [row for row in study.asides if row.setting.task == task] for task in ("kernels", "largest_batch")}
    contestants = [found for found in study.contestants if any(row.contestant == found for row in study.asides)]
    columns = [(study.label(contestant), keys(contestant)) for contestant in contestants]
    tables = []
    if largest := of_task["largest_batch"]:
        # The batch that a search starts from says nothing about where it ends.
        settings = list(dict.fromkeys(_without_batch(row.setting) for row in largest))
        lines = []
        for setting in settings:
            rows = [row for row in largest if _without_batch(row.setting) == setting]
            lines.append(_line(label(setting), setting_keys(setting), contestants, rows, _largest, keys))
        tables.append(Pivot(LARGEST_BATCH, columns, lines))
    measured = of_task["kernels"]
    for name in dict.fromkeys(kernel["name"] for row in measured for kernel in _kernels(row)):
        sizes = dict.fromkeys(k["size"] for row in measured for k in _kernels(row) if k["name"] == name)
        lines = []
        for setting in dict.fromkeys(row.setting for row in measured):
            rows = [row for row in measured if row.setting == setting]
            where = label(dataclasses.replace(setting, crops="", batch=0))
            for size in sizes:
                title = ", ".join(part for part in (size, where if where != "All" else "") if part)
                cell = _timed(rows, name, size)
                lines.append(_line(title, setting_keys(setting), contestants, rows, cell, keys))
        note = f"{KERNELS.get(name, '')} Median of blocks of calls, one fence a block; in small its 95 % interval."
        metric = Metric(f"kernel-{name}", name, "µs", ("kernels", name), "lower", note=note.strip())
        tables.append(Pivot(metric, columns, lines))
    return tables


def _line(
    title: str,
    tokens: str,
    contestants: Sequence[Contestant],
    rows: Sequence[Row],
    cell: Callable[[Row], Cell],
    keys: Callable[[Contestant], str],
) -> Line:
    found = {row.contestant: row for row in rows}
    cells, links = [], []
    for contestant in contestants:
        row = found.get(contestant)
        made = NOTHING
        if row is not None:
            made = cell(row) if row.status == "ok" else Cell(row.status.replace("_", " "), kind="status")
            links += [index for index, _ in row.records]
        cells.append(dataclasses.replace(made, keys=keys(contestant)))
    return Line(title, "", cells, tokens, links)


def _largest(row: Row) -> Cell:
    found = [record["largest_batch"] for _, record in row.records if record["largest_batch"]]
    batches = [search["batch"] for search in found if search["batch"] is not None]
    if not batches:
        return Cell("none", "even the smallest did not fit") if found else NOTHING
    too_large = [search["smallest_too_large"] for search in found if search["smallest_too_large"] is not None]
    small = [f"not {min(too_large):,}" if too_large else "the limit of the search"]
    rates = [record["timing"]["samples_per_s"] for _, record in row.records if record["timing"]]
    if rates:
        small.append(f"{significant(statistics.median(rates), 4)} samples/s")
    return Cell(f"{min(batches):,}", ", ".join(small))


def _timed(rows: Sequence[Row], name: str, size: str) -> Callable[[Row], Cell]:
    """The cell of a row; the fastest beyond the intervals is marked."""
    measured = {row.contestant: kernel for row in rows if row.status == "ok" and (kernel := _kernel(row, name, size))}

    def cell(row: Row) -> Cell:
        kernel = measured.get(row.contestant)
        if kernel is None:
            return NOTHING
        low, high = (significant(1e6 * kernel[f"call_s_{end}"], 3) for end in ("low", "high"))
        rate = kernel["gbytes_per_s"]
        small = [f"{low}–{high}" if low != high else "", f"{significant(rate, 3)} GB/s" if rate else ""]
        others = [other for one, other in measured.items() if one != row.contestant]
        best = bool(others) and all(kernel["call_s_high"] < other["call_s_low"] for other in others)
        shown = significant(1e6 * kernel["call_s_median"], 3)
        return Cell(shown, ", ".join(part for part in small if part), best=best)

    return cell


def _kernel(row: Row, name: str, size: str) -> dict[str, Any] | None:
    """Of several runs the one in the middle."""
    found = sorted(
        (kernel for kernel in _kernels(row) if (kernel["name"], kernel["size"]) == (name, size)),
        key=lambda kernel: kernel["call_s_median"],
    )
    return found[(len(found) - 1) // 2] if found else None


def _kernels(row: Row) -> list[dict[str, Any]]:
    return [kernel for _, record in row.records for kernel in record["kernels"] or ()]


def _without_batch(setting: Setting) -> Setting:
    return dataclasses.replace(setting, batch=0, steps=0)
