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
