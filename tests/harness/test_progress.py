"""What a person sees while cells run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from swav_bench import environment, progress, records


@pytest.fixture
def record(cell):
    plan = {"version": "1", "environment": environment.describe()}

    def make(**changes):
        failed = {"status": "error", "reason": "it broke", "wall_s": 30.0}
        return records.not_run(cell().to_dict(), plan) | failed | changes

    return make


@pytest.fixture(params=[False, True], ids=["pipe", "terminal"])
def shown(request):
    file = io.StringIO()
    console = Console(file=file, force_terminal=request.param, width=160)
    display = progress.display(console)
    assert isinstance(display, progress.TerminalDisplay) == request.param
    yield display, file
    display.end()


def test_each_cell_is_a_line_with_the_time_left(shown, cell, record):
    display, file = shown
    cells = [cell(seed=seed) for seed in range(3)]
    display.start(cells=4, missing=cells, done=[record()])
    for number, one in enumerate(cells):
        display.cell_started(one)
        display.phase("training")
        display.step(5, 20, 2.5)
        display.cell_ended(record(wall_s=30.0 + number))
    text = file.getvalue()
    assert "1 of 4 cells are already measured" in text
    for words in ("[2/4]", "[3/4]", "[4/4]", "it broke", "30 s", "about 60 s left", "about 30 s left"):
        assert words in text


def test_the_time_left_is_each_implementation_s_own(shown, cell, record):
    display, _ = shown
    slow = record(wall_s=600.0)
    slow["cell"] = slow["cell"] | {"implementation": "fake:Slow"}
    display.start(cells=3, missing=[cell(), cell("Slow")], done=[record(wall_s=60.0), slow])
    assert display.time_left() == "about 11 min"
    display.cell_ended(record(wall_s=60.0))
    assert display.time_left() == "about 10 min"
    display.cell_ended(slow)
    assert display.time_left() == ""


def test_cells_that_a_time_budget_leaves_out_are_counted_at_the_end(shown, cell, record):
    display, file = shown
    display.start(cells=3, missing=[cell(), cell("Slow"), cell(seed=1)], done=[])
    display.cell_ended(record(wall_s=60.0))
    display.cell_skipped(cell("Slow"))
    assert display.time_left() == "about 60 s"
    display.cell_skipped(cell(seed=1))
    assert display.time_left() == ""
    assert "time budget" not in file.getvalue()
    display.end()
    assert "The time budget is over: 2 of 3 cells are not run. The same command goes on with them." in file.getvalue()


def test_nothing_is_promised_before_anything_is_known(shown, cell):
    display, _ = shown
    display.start(cells=1, missing=[cell()], done=[])
    assert display.time_left() == ""


def test_a_record_without_its_time_says_nothing_of_the_others(shown, cell, record):
    display, _ = shown
    display.start(cells=2, missing=[cell()], done=[record(wall_s=None)])
    assert display.time_left() == ""


def test_names_and_reasons_are_shown_as_they_are_and_do_nothing(shown, cell, record):
    display, file = shown
    display.start(cells=1, missing=[cell(implementation="[red]x[/red]:\x07Class")], done=[])
    display.cell_started(cell(implementation="[red]x[/red]:\x07Class"))
    display.phase("[/nothing]")
    display.note("[bold]said[/bold]")
    hostile = record(reason="[blink]\x1b]0;title\x07")
    hostile["cell"] = hostile["cell"] | {"implementation": "[red]x[/red]:\x07Class"}
    display.cell_ended(hostile)
    text = file.getvalue()
    for words in ("[bold]said[/bold]", "[red]x[/red]:?Class", "[blink]?]0;title?"):
        assert words in text
    assert "\x07" not in text
    assert "\x1b]" not in text


def test_other_tasks_say_what_they_found(record):
    done = record() | {"status": "ok", "reason": None}
    found = {"batch": 40, "smallest_too_large": 42, "step": 2, "tries": []}
    assert progress.summary(done | {"largest_batch": found}).endswith("batch 40 fits, 42 does not")
    all_fit = found | {"smallest_too_large": None}
    assert progress.summary(done | {"largest_batch": all_fit}).endswith("the largest tried")
    assert progress.summary(done | {"kernels": [{}, {}]}).endswith("2 single operations")
