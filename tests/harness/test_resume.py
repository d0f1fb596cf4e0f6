"""However a run is stopped, the next one measures exactly what is missing, and nothing is left running."""

from __future__ import annotations

import json
import signal
import time

import psutil
import pytest

from swav_bench import records

SEEDS = 3


@pytest.fixture
def arguments(images):
    seeds = [word for seed in range(SEEDS) for word in ("--seed", seed)]
    matrix = ["--batch", 16, "--multi-crop", "off", "--queue", "off", "--steps", 15, "--precision", "float64"]
    return ["run", "--out", "results", "--dataset", images, "-i", "fake:Slow", *matrix, *seeds]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_goes_on_with_the_missing_cells(command, arguments, tmp_path, number, code):
    file = tmp_path / "results" / records.RECORDS
    parent = command(*arguments, background=True)
    children = _children_after(parent, file, lines=1)
    parent.send_signal(number)
    _, said = parent.communicate(timeout=30)
    assert parent.returncode == code, said
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    before = file.read_bytes()
    assert len(before.splitlines()) == 1
    if number != signal.SIGKILL:
        stopped = f"Stopped: 1 of {SEEDS} cells are measured. The same command goes on with the others.\n"
        assert said == (stopped if number == signal.SIGINT else "")
        return

    again = command(*arguments)
    assert again.returncode == 0, again.stderr
    assert f"1 of {SEEDS} cells are already measured" in again.stdout
    after = file.read_bytes()
    assert after.startswith(before)
    cells = [json.loads(line)["cell"] for line in after.splitlines()]
    assert sorted(cell["seed"] for cell in cells) == list(range(SEEDS))


def test_a_time_budget_leaves_a_report_and_the_rest_to_the_next_run(command, arguments, tmp_path):
    """Six cells of more than a second and a half each do not go into nine seconds."""
    six = [*arguments, "--seed", 3, "--seed", 4, "--seed", 5]
    done = command(*six, "--time-budget", "9s")
    assert done.returncode == 0, done.stderr
    assert "[1/6] ok" in done.stdout
    file, table = (tmp_path / "results" / name for name in (records.RECORDS, "report.csv"))
    count = len(file.read_bytes().splitlines())
    assert 1 <= count < 6
    assert f"The time budget is over: {6 - count} of 6 cells are not run." in done.stdout
    assert table.read_text().count("not_run") == 6 - count
    assert f"6 cells, {6 - count} to do" in command(*six, "--dry-run").stdout
    again = command(*six, "--time-budget", "1h")
    assert again.returncode == 0, again.stderr
    assert "time budget" not in again.stdout
    assert len(file.read_bytes().splitlines()) == 6
    assert "not_run" not in table.read_text()


def _children_after(parent, file, lines):
    """Processes of the run once so many cells have ended and the next one's has started."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and parent.poll() is None:
        children = psutil.Process(parent.pid).children(recursive=True)
        if file.exists() and len(file.read_bytes().splitlines()) == lines and children:
            time.sleep(0.5)
            return children
        time.sleep(0.02)
    raise AssertionError(parent.communicate())
