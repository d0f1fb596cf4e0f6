"""What is shown of a training run, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from swav_bench import train_display
from swav_bench.train_display import TrainDisplay, TrainTerminal, display, duration


def progress(step, knn=None, rate=160.0):
    return {
        "event": "progress",
        "step": step,
        "total": 100,
        "batch": 16,
        "prototypes": 30,
        "ln_k": 3.4012,
        "epoch": step / 6,
        "loss": 2.5,
        "code_entropy": 1.25,
        "prototypes_used": 27,
        "knn_top1": knn,
        "samples_per_s": rate,
    }


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200, color_system=None)


def test_a_line_has_the_figures_and_the_time_left(console):
    shown = TrainDisplay(console)
    shown.event(progress(1, rate=0.01))
    first = console.file.getvalue()
    assert "left" not in first, "the first steps compile"
    shown.event(progress(40, knn=0.5))
    said = console.file.getvalue().removeprefix(first)
    for words in ("step 40/100", "loss 2.500 (ln K 3.401)", "code entropy 1.25", "prototypes 27/30", "160 samples/s"):
        assert words in said
    # 60 steps of 16 images at 160 images a second.
    assert "about 6 s left" in said


def test_a_log_gets_a_line_now_and_then_and_always_the_last_and_the_neighbours(console, monkeypatch):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(train_display.time, "monotonic", lambda: next(clock))
    shown = TrainDisplay(console)
    for step in range(1, 101):
        shown.event(progress(step, knn=0.5 if step == 50 else None))
    steps = [int(line.split("/")[0].removeprefix("step ")) for line in console.file.getvalue().splitlines()]
    assert {1, 50, 100} < set(steps)
    assert 10 < len(steps) < 60


def test_alarms_and_notes_are_always_said_and_nothing_in_them_acts(console):
    shown = TrainDisplay(console)
    shown.event({"event": "alarm", "kind": "loss", "sentence": "step 20: [bold]ln K[/bold] \x1b[31m"})
    shown.event({"event": "note", "sentence": "Goes on from step 4."})
    assert console.file.getvalue() == "COLLAPSE? step 20: [bold]ln K[/bold] ?[31m\nGoes on from step 4.\n"


def test_the_terminal_s_bar_goes_along():
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    shown = display(console)
    assert isinstance(shown, TrainTerminal)
    shown.start()
    shown.event({"event": "phase", "name": "decoding [the] images"})
    shown.event({"event": "phase", "name": "training"})
    assert shown._bars.tasks[0].fields["said"] == "decoding \\[the] images", "training shows by its figures"
    shown.event(progress(40))
    shown.event(progress(60, knn=0.75))
    (bar,) = shown._bars.tasks
    shown.stop()
    assert (bar.completed, bar.total) == (60, 100)
    assert "kNN 0.750" in console.file.getvalue()
    assert type(display(Console(file=io.StringIO()))) is TrainDisplay


@pytest.mark.parametrize(("seconds", "words"), [(6, "about 6 s"), (600, "about 10 min"), (7200, "about 2.0 h")])
def test_durations(seconds, words):
    assert duration(seconds) == words
