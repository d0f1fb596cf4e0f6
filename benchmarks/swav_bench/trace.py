"""A trace of a few training steps by the framework's own profiler, for people who want to look inside.

Traced steps come after everything that is measured, on a copy of the run as it stood that many steps before its end:
a profiler slows what it looks at. Inside, traces name the machine and its folders: they are for their owner.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from swav_bench.inputs import Feed
from swav_spec.errors import require

#: Steps before the traced ones, in which programs are compiled and graphs captured anew; and steps that are traced.
SETTLING, STEPS = 5, 3


def record(trainer: Any, state: Any, feed: Feed, folder: Path) -> list[str]:
    """Traces steps into `folder`, which is made anew.

    Args:
        trainer: it has `trace`, see swav_spec.contract.Tracing.
        state: of the run, after its last step; it stays as it is.
        feed: of the run.
        folder: for the files, named by their format: the profilers' own names hold the machine's.

    Returns:
        Names of the files, the folder's with them.

    Raises:
        InvalidInput: the profiler has written nothing.
    """
    config, arrays = state.config, trainer.to_arrays(state)
    start = int(state.step) - SETTLING - STEPS
    arrays |= {name: np.array(start, dtype=np.int64) for name in ("step", "adam_count") if name in arrays}
    traced = trainer.from_arrays(config, arrays)
    del arrays
    advance = getattr(trainer, feed.method)
    arguments = feed.arguments(range(start, start + SETTLING + STEPS))
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for _ in range(SETTLING):
                traced, metrics = advance(traced, *next(arguments))
            trainer.fence(traced, metrics)
            with trainer.trace(Path(scratch)):
                for _ in range(STEPS):
                    traced, metrics = advance(traced, *next(arguments))
                trainer.fence(traced, metrics)
        finally:
            arguments.close()
        return _moved(Path(scratch), folder)


def _moved(scratch: Path, folder: Path) -> list[str]:
    files = sorted(path for path in scratch.rglob("*") if path.is_file())
    require(bool(files), "trace", "no files", "at least one file from the framework's profiler")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names: list[str] = []
    for file in files:
        kind = "trace" + "".join(suffix for suffix in file.suffixes if suffix in _FORMATS)
        name = kind if kind not in names else f"{len(names)}-{kind}"
        shutil.move(file, folder / name)
        names.append(name)
    return [f"{folder.name}/{name}" for name in names]


_FORMATS = (".json", ".gz", ".xplane", ".pb")
