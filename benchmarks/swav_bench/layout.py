"""Tables as a report shows them, before they are HTML, Markdown or text."""

from __future__ import annotations

from dataclasses import dataclass

from swav_bench.tables import Contestant, Metric


@dataclass(frozen=True)
class Cell:
    """A table cell: a figure, its spread or reference in small, and whether it is a status or the best.

    Attributes:
        text: the figure, a status, or a dash.
        small: second line.
        kind: "", "status" (instead of a figure), "none" (nothing measured), "reference" or "unranked".
        best: better than every other at its setting beyond the spread.
        keys: tokens for the filters.
        share: of the setting's largest value, for a bar behind the figure.
    """

    text: str
    small: str = ""
    kind: str = ""
    best: bool = False
    keys: str = ""
    share: float | None = None


@dataclass(frozen=True)
class Line:
    """A row of a table: its header, its mode (main table), its cells, tokens for the filters, the records behind it."""

    label: str
    mode: str
    cells: list[Cell]
    keys: str
    links: list[int]
    contestant: Contestant | None = None


@dataclass(frozen=True)
class Group:
    """Lines under a common header."""

    label: str
    keys: str
    lines: list[Line]


@dataclass(frozen=True)
class Pivot:
    """One metric: settings down, contestants across, references last."""

    metric: Metric
    columns: list[tuple[str, str]]
    lines: list[Line]


@dataclass(frozen=True)
class Filter:
    """A group of check boxes: (token, label) each."""

    title: str
    options: list[tuple[str, str]]
