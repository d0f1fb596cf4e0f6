"""What a person sees of a training run: a bar on a terminal, a line every few seconds elsewhere; and how it ended."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from swav_bench.progress import printable

#: Seconds between lines where there is no terminal.
LINE_S = 10.0
#: Weight of the newest fence in the time a step takes.
NEWEST = 0.3


class TrainDisplay:
    """Lines; the form for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._step_s: float | None = None
        self._compiled = False
        self._said_at = -math.inf

    def start(self) -> None:
        """Before the training process starts."""

    def stop(self) -> None:
        """After it has ended."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Something the training process said."""
        kind = event["event"]
        if kind == "note":
            self._print(event["sentence"], "yellow")
        elif kind == "alarm":
            self._print(f"COLLAPSE? {event['sentence']}", "bold red")
        elif kind == "phase":
            self.phase(event["name"])
        else:  # progress
            self._learn(event)
            self.line(event)

    def phase(self, name: str) -> None:
        """The process turns to something else."""

    def line(self, line: Mapping[str, Any]) -> None:
        """A line of the log; it also has the run's `total` steps, `batch`, `prototypes` and `ln_k`."""
        last = line["step"] == line["total"]
        if time.monotonic() - self._said_at >= LINE_S or last or line["knn_top1"] is not None:
            self._said_at = time.monotonic()
            self._print(f"step {line['step']:,}/{line['total']:,}  {figures(line)}{self._left(line)}", "")

    def _print(self, sentence: str, style: str) -> None:
        self.console.print(Text(printable(sentence), style=style), soft_wrap=True)

    def _learn(self, line: Mapping[str, Any]) -> None:
        if not self._compiled:  # the first steps of a session say nothing about the others
            self._compiled = True
            return
        step_s = line["batch"] / line["samples_per_s"]
        self._step_s = step_s if self._step_s is None else NEWEST * step_s + (1 - NEWEST) * self._step_s

    def _left(self, line: Mapping[str, Any]) -> str:
        seconds = (line["total"] - line["step"]) * (self._step_s or 0)
        return f"  {duration(seconds)} left" if seconds else ""


class TrainTerminal(TrainDisplay):
    """The same with a bar, whose figures change in place."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            console=console,
            transient=True,
        )
        self._bar = self._bars.add_task("steps", total=None, said="starting")

    def start(self) -> None:
        self._bars.start()

    def stop(self) -> None:
        self._bars.stop()

    def phase(self, name: str) -> None:
        if name != "training":
            self._bars.update(self._bar, said=printable(name).replace("[", "\\["))

    def line(self, line: Mapping[str, Any]) -> None:
        said = figures(line) + self._left(line)
        self._bars.update(self._bar, completed=line["step"], total=line["total"], said=said)
        if line["knn_top1"] is not None:
            self._print(f"epoch {line['epoch']:.1f}  kNN {line['knn_top1']:.3f}  loss {line['loss']:.3f}", "")


def display(console: Console) -> TrainDisplay:
    """The display that suits where the output goes."""
    return TrainTerminal(console) if console.is_terminal else TrainDisplay(console)


def figures(line: Mapping[str, Any]) -> str:
    """A line of the log in a line."""
    words = [
        f"epoch {line['epoch']:.2f}",
        f"loss {line['loss']:.3f} (ln K {line['ln_k']:.3f})",
        f"code entropy {line['code_entropy']:.2f}",
        f"prototypes {line['prototypes_used']}/{line['prototypes']}",
        f"{line['samples_per_s']:,.0f} samples/s",
    ]
    if line["knn_top1"] is not None:
        words.append(f"kNN {line['knn_top1']:.3f}")
    return "  ".join(words)


def duration(seconds: float) -> str:
    """About how long that is."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def ending(console: Console, summary: Mapping[str, Any]) -> None:
    """How a run ended: the figures of its summary."""
    if summary["final_loss"] is not None:
        told = f"Loss {summary['final_loss']:.3f} of ln K = {summary['ln_k']:.3f}, code entropy "
        told += (
            f"{summary['code_entropy']:.2f}, {summary['prototypes_used']} of {summary['prototypes']} prototypes in use"
        )
        console.print(Text(f"{told}, {summary['train_s']:.0f} s of training."), soft_wrap=True)
    accuracy = summary["accuracy"]
    if accuracy:
        table = Table(
            "top-1 accuracy", "kNN", "linear probe", title=f"{accuracy['split']} images", title_justify="left"
        )
        for name, title in (("learnt", "learnt"), ("random_weights", "random weights"), ("raw_pixels", "raw pixels")):
            table.add_row(title, f"{accuracy[name]['knn_top1']:.3f}", f"{accuracy[name]['linear_top1']:.3f}")
        table.add_row("chance", f"{accuracy['learnt']['chance']:.3f}", f"{accuracy['learnt']['chance']:.3f}")
        console.print(table)
    for note in summary["notes"]:
        console.print(Text(printable(note), style="yellow"), soft_wrap=True)
