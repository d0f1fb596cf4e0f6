"""What a person sees while cells run: a bar with the time left on a terminal, one line a cell elsewhere."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from swav_bench.cells import Cell
from swav_bench.records import Record

#: Where output is no terminal, tables are laid out for this many columns.
WIDTH_WITHOUT_TERMINAL = 160
_STYLES = {"ok": "green", "collapsed": "bold red", "wrong": "bold red"}


def console() -> Console:
    """Where a command shows its results."""
    made = Console(highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = WIDTH_WITHOUT_TERMINAL
    return made


class Display:
    """Says what happens, one line for each cell; the form for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._total = self._ended = self._skipped = 0
        self._walls: dict[str, list[float]] = {}
        self._todo: list[str] = []

    def start(self, *, cells: int, missing: Sequence[Cell], done: Sequence[Record]) -> None:
        """Before the first cell.

        Args:
            cells: how many were asked for.
            missing: those to be run now.
            done: records that the folder already has, for the first estimates.
        """
        self._total, self._ended = cells, cells - len(missing)
        self._todo = [cell.implementation for cell in missing]
        for record in done:
            self._learn(record)
        if self._ended:
            self.note(f"{self._ended} of {cells} cells are already measured")

    def note(self, sentence: str) -> None:
        """Something worth a line."""
        self.console.print(Text(sentence, style="yellow"), soft_wrap=True)

    def cell_started(self, cell: Cell) -> None:
        """The cell's process starts."""

    def phase(self, name: str) -> None:
        """The running cell turns to something else."""

    def step(self, done: int, steps: int, loss: float) -> None:
        """The running cell has trained so far."""

    def cell_ended(self, record: Record) -> None:
        """The cell has its record."""
        self._ended += 1
        self._todo.remove(record["cell"]["implementation"])
        self._learn(record)
        status = record["status"]
        line = Text(f"[{self._ended:{len(str(self._total))}}/{self._total}] ")
        line.append(f"{status:9} ", style=_STYLES.get(status, "red"))
        line.append(summary(record))
        line.append(f"  {record['wall_s']:.0f} s", style="dim")
        left = self.time_left()
        if left:
            line.append(f", {left} left", style="dim")
        self.console.print(line, soft_wrap=True)

    def cell_skipped(self, cell: Cell) -> None:
        """There is no time left for the cell."""
        self._todo.remove(cell.implementation)
        self._skipped += 1

    def end(self) -> None:
        """After the last cell, or when the run is stopped."""
        if self._skipped:
            self.note(
                f"The time budget is over: {self._skipped} of {self._total} cells are not run. "
                "The same command goes on with them."
            )
            self._skipped = 0

    def time_left(self) -> str:
        """About how long the cells that are still to run will take; empty while nothing is known or left."""
        every = [wall for walls in self._walls.values() for wall in walls]
        if not every or not self._todo:
            return ""
        seconds = sum(statistics.fmean(self._walls.get(name, every)) for name in self._todo)
        return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"

    def _learn(self, record: Record) -> None:
        if record["wall_s"] is not None:
            self._walls.setdefault(record["cell"]["implementation"], []).append(record["wall_s"])


class TerminalDisplay(Display):
    """The same lines, with a bar for the run and one for the running cell below them."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[said]}", style="dim"),
            console=console,
            transient=True,
        )
        self._run = self._bars.add_task("cells", total=None, said="")
        self._cell = self._bars.add_task("", total=None, said="", visible=False)

    def start(self, *, cells: int, missing: Sequence[Cell], done: Sequence[Record]) -> None:
        super().start(cells=cells, missing=missing, done=done)
        self._bars.update(self._run, total=cells, completed=self._ended, said=self._left())
        self._bars.start()

    def cell_started(self, cell: Cell) -> None:
        self._bars.reset(self._cell, total=cell.steps, description=_plain(cell.title), said="starting", visible=True)

    def phase(self, name: str) -> None:
        self._bars.update(self._cell, said=_plain(name))

    def step(self, done: int, steps: int, loss: float) -> None:
        self._bars.update(self._cell, completed=done, total=steps, said=f"loss {loss:.3f}")

    def cell_ended(self, record: Record) -> None:
        super().cell_ended(record)
        self._bars.update(self._run, completed=self._ended, said=self._left())
        self._bars.update(self._cell, visible=False)

    def cell_skipped(self, cell: Cell) -> None:
        super().cell_skipped(cell)
        self._bars.update(self._cell, visible=False)

    def end(self) -> None:
        self._bars.stop()
        super().end()

    def _left(self) -> str:
        left = self.time_left()
        return f"{left} left" if left else ""


def display(console: Console) -> Display:
    """The display that suits where the output goes."""
    return TerminalDisplay(console) if console.is_terminal else Display(console)


def summary(record: Record) -> str:
    """A record in one line: what it is, and the figures or the reason."""
    cell = record["cell"]
    words = [
        f"{printable(cell['implementation']):10}",
        f"batch {cell['batch']:<4}",
        "multi-crop" if cell["multi_crop"] else "two crops ",
        f"queue {cell['queue_rows']:<5}" if cell["queue"] else "no queue   ",
    ]
    if record["status"] != "ok":
        return " ".join(words) + f" {printable(record['reason'])}"
    words += _figures(record)
    return " ".join(words)


def _figures(record: Record) -> list[str]:
    """What was found, by the cell's task."""
    largest, kernels, learning, accuracy = (
        record[part] for part in ("largest_batch", "kernels", "learning", "accuracy")
    )
    if largest:
        beyond = f"{largest['smallest_too_large']} does not" if largest["smallest_too_large"] else "the largest tried"
        rate = f"  {record['timing']['samples_per_s']:,.0f} samples/s" if record["timing"] else ""
        return [f"batch {largest['batch']} fits, {beyond}{rate}"]
    if kernels:
        return [f"{len(kernels)} single operations"]
    words = [
        f"{record['timing']['samples_per_s']:>8,.0f} samples/s",
        f" loss {learning['final_loss']:.2f} of {learning['ln_k']:.2f}",
    ]
    if accuracy:
        beside = f"raw {accuracy['raw_knn_top1']:.3f}, random {accuracy['random_knn_top1']:.3f}"
        words.append(f" kNN {accuracy['knn_top1']:.3f} ({beside})")
    return words


def printable(text: object) -> str:
    """The text without what a terminal would act on."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


def _plain(text: str) -> str:
    """The text for a column that would read square brackets as markup."""
    return printable(text).replace("[", "\\[")
