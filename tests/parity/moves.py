"""Writes checkpoints with one implementation, or goes on from those of the others; run in a process of its own.

    python -m tests.parity.moves write IMPLEMENTATION FOLDER [--nudges N]
    python -m tests.parity.moves continue IMPLEMENTATION FOLDER

`write` leaves FOLDER/<implementation>-<precision>/ with the checkpoint after MOVED_AT steps, and
FOLDER/<implementation>-<implementation>-<precision>.npz of the whole run; `continue` leaves
FOLDER/<writer>-<implementation>-<precision>.npz of the steps after the move. These hold "<step>/loss" and
"<step>/state/<name>". With nudges, FOLDER/<straight or nudge<n>>.npz are the runs that bounds come from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tests.parity.recipes import PRECISIONS, STEPS, WEIGHTS, config_of, images, plan_of
from tests.parity.trajectory import trajectory

from swav_bench import checkpoint
from swav_bench.checkpoint import Checkpoint
from swav_spec import registry
from swav_spec.config import Execution
from swav_spec.network import initial_weights

FRAMEWORKS = ("torch", "jax", "tensorflow")
RECIPE = "convnet4"
#: The prototypes are free by then, and the queue is half full.
MOVED_AT = 4


def trained(implementation, state, until):
    """The state after step number `until` - 1, and everything on the way."""
    record, resident = {}, implementation.to_device(images())
    while state.step < until:
        step = state.step
        state, metrics = implementation.step(state, resident, plan_of(state.config, step))
        record[f"{step}/loss"] = np.array(float(implementation.to_host(metrics["loss"])))
        record |= {f"{step}/state/{name}": value for name, value in implementation.to_arrays(state).items()}
    return state, record


def write(implementation, name, precision, folder):
    config = config_of(RECIPE)
    # Numbers that float32 holds, so that both precisions start from the same.
    weights = initial_weights(config.network, WEIGHTS[RECIPE])
    weights = {key: value.astype(np.float32).astype(value.dtype) for key, value in weights.items()}
    state, before = trained(implementation, implementation.init(config, weights), MOVED_AT)
    checkpoint.save(folder / f"{name}-{precision}", Checkpoint(config, implementation.to_arrays(state)))
    _, after = trained(implementation, state, STEPS)
    np.savez(folder / f"{name}-{name}-{precision}.npz", **before, **after)


def go_on(implementation, name, precision, folder):
    for writer in FRAMEWORKS:
        if writer != name:
            found = checkpoint.latest(folder / f"{writer}-{precision}")
            state = implementation.from_arrays(found.config, found.arrays)
            assert state.step == MOVED_AT
            _, record = trained(implementation, state, STEPS)
            np.savez(folder / f"{writer}-{name}-{precision}.npz", **record)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=("write", "continue"))
    parser.add_argument("implementation", choices=FRAMEWORKS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nudges", type=int, default=0)
    given = parser.parse_args()
    for precision in PRECISIONS:
        implementation = registry.load(given.implementation, Execution("cpu", precision))
        does = write if given.task == "write" else go_on
        does(implementation, given.implementation, precision, given.folder)
        if given.nudges and precision == "float64":
            np.savez(given.folder / "straight.npz", **trajectory(implementation, RECIPE))
            for number in range(given.nudges):
                nudged = trajectory(implementation, RECIPE, np.random.default_rng(number))
                np.savez(given.folder / f"nudge{number}.npz", **nudged)


if __name__ == "__main__":
    main()
