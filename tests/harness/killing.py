"""Kills `swav-bench train` at random moments, again and again, and looks at what is on the disk each time."""

from __future__ import annotations

import json
import random
import subprocess

import numpy as np

from swav_bench import checkpoint
from swav_bench.run_folder import RunFolder

#: A started run that is not heard of for so long hangs.
PATIENCE_S = 120.0


def kill_again_and_again(start, folder: RunFolder, *, kills: int, longest_s: float, seed: int) -> list[int]:
    """Starts the run, kills it after a random time, looks, and starts it again; at last it may end.

    Args:
        start: starts the command in the background.
        folder: of the run.
        kills: how often.
        longest_s: a kill comes at most so long after the training has begun or gone on.
        seed: of the moments.

    Returns:
        The step of the last checkpoint after each kill.
    """
    draw, found, before = random.Random(seed), [], 0
    for _ in range(kills):
        process = start()
        try:
            _wait_for_training(process, draw.uniform(0, longest_s))
        finally:
            process.kill()
            process.communicate(timeout=PATIENCE_S)
        step = check(folder)
        assert step >= before
        found.append(step)
        before = step
    process = start()
    said, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said + errors
    return found


def check(folder: RunFolder) -> int:
    """Asserts that whatever stands in the folder is whole; the step of its last checkpoint, 0 without one."""
    for path in (*checkpoint.steps(folder.checkpoints), *folder.checkpoints.glob("best.safetensors")):
        arrays = checkpoint.read(path).arrays
        assert all(np.isfinite(array).all() for array in arrays.values())
    found = checkpoint.latest(folder.checkpoints)
    for path in (folder.config, folder.summary):
        folder.read(path)
    lines = [line["step"] for line in folder.lines()]
    assert lines == sorted(set(lines))
    # Only the last line may be torn: a kill in the middle of a write.
    whole = folder.log.read_bytes().splitlines()[: len(lines)] if folder.log.exists() else []
    assert [json.loads(line)["step"] for line in whole] == lines
    if found is not None:
        assert found.step in lines
    return 0 if found is None else found.step


def _wait_for_training(process: subprocess.Popen, seconds: float) -> None:
    """Returns so long after the process has told of its first step, or when it has ended."""
    any(line.startswith("step ") for line in process.stdout)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return
