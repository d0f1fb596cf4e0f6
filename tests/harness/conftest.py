"""What the harness tests share: images on disk, cells of the fake implementation, and the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from swav_bench import children, runner
from swav_bench.cells import Cell
from swav_bench.progress import Display

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _fake_on_path(monkeypatch):
    """Children import `fake` from this folder."""
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Folder with 96 training images of two classes, 8 x 8 pixels: light and dark halves, upright or lying."""
    return _write_images(tmp_path_factory.mktemp("images"), {"train": 48})


@pytest.fixture(scope="session")
def images_with_test(tmp_path_factory):
    """The same with 16 test images."""
    return _write_images(tmp_path_factory.mktemp("images"), {"train": 48, "test": 8})


def _write_images(folder, counts):
    draw = np.random.Generator(np.random.PCG64(1))
    for split, count in counts.items():
        for label in ("upright", "lying"):
            place = folder / split / label
            place.mkdir(parents=True)
            for number in range(count):
                pixels = np.full((8, 8, 3), 60) + draw.integers(0, 40, (8, 8, 3))
                pixels[:, :4] += 100
                pixels = pixels if label == "upright" else pixels.transpose(1, 0, 2)
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number:03}.png")
    return folder


@pytest.fixture
def cell(images):
    """Class of the fake -> a cell of it; other fields by name."""

    def make(name="Fake", **changes):
        fields = {
            "suite": "demo",
            "implementation": f"fake:{name}",
            "mode": "default",
            "device": "cpu",
            "precision": "float64",
            "recipe": "textures",
            "dataset": str(images),
            "batch": 16,
            "multi_crop": False,
            "queue_rows": 0,
            "seed": 0,
            "steps": 20,
        }
        return Cell(**fields | changes)

    return make


@pytest.fixture
def run(tmp_path):
    """Runs cells in `tmp_path`/results; returns their records."""

    def go(*cells, timeout_s=60.0, folder=tmp_path / "results", **options):
        with Path(os.devnull).open("w") as nowhere:
            display = Display(Console(file=nowhere))
            return runner.run(folder, cells, runner.Options(timeout_s=timeout_s, **options), display)

    return go


@pytest.fixture
def command(tmp_path):
    """Runs `python -m swav_bench` with these arguments in `tmp_path`, with the same import path as this process."""

    def go(*arguments, background=False, **variables):
        environment = children.child_environment(1, "cpu") | {"COLUMNS": "200"} | variables
        start = subprocess.Popen if background else subprocess.run
        options = {} if background else {"timeout": 120, "check": False}
        return start(
            [sys.executable, "-m", "swav_bench", *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Where the tests themselves run in the background, Ctrl-C is ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **options,
        )

    return go


class Said(NamedTuple):
    """The exit code of a command, and what it wrote to standard output and to standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def main(tmp_path, monkeypatch, capsys):
    """Runs `swav-bench` with these arguments in `tmp_path` and in this process: a second faster than `command`."""
    from swav_bench import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.signal, "signal", lambda number, handler: None)  # the tests' own handlers stay
    monkeypatch.setattr(sys, "path", [*sys.path, str(HERE)])
    monkeypatch.setenv("COLUMNS", "200")

    def go(*arguments):
        monkeypatch.setattr(sys, "argv", ["swav-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Said(ended.value.code, *capsys.readouterr())

    return go
