"""Trains with one implementation and writes down all of it; run in a process of its own by test_parity.

    python -m tests.parity.trajectory IMPLEMENTATION FOLDER [--nudges N]

FOLDER/<recipe>-<precision>.npz then holds "<step>/loss", "<step>/views/<i>", "<step>/grad/<name>" and
"<step>/state/<name>" (after the step, as `to_arrays` names it); with nudges also FOLDER/<recipe>-nudge<n>.npz of
float64 runs whose weights and pixels start some float32 roundings away.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tests.parity.recipes import NETWORKS, PRECISIONS, STEPS, WEIGHTS, config_of, images, plan_of

from swav_spec import registry
from swav_spec.config import Execution
from swav_spec.network import initial_weights
from swav_spec.testing.golden import NUDGE


def trajectory(implementation, name, nudge=None):
    """Everything that a run computes, by name."""

    def nudged(array):
        if nudge is None or not np.issubdtype(array.dtype, np.floating):
            return array
        return array * (1 + NUDGE * nudge.uniform(-1, 1, array.shape))

    config, host = config_of(name), implementation.to_host
    resident = implementation.to_device(images())
    weights = initial_weights(config.network, WEIGHTS[name])
    # Numbers that float32 holds, so that both precisions start from the same.
    weights = {key: value.astype(np.float32).astype(value.dtype) for key, value in weights.items()}
    state = implementation.init(config, {key: nudged(value) for key, value in weights.items()})
    record = {}
    for step in range(STEPS):
        views = implementation.views(resident, plan_of(config, step), config)
        if nudge is not None:
            views = [implementation.to_device(nudged(host(view))) for view in views]
        loss, grads = implementation.loss_and_grads(state, views)
        state, metrics = implementation.step_on_views(state, views)
        record[f"{step}/loss"] = np.array(float(host(metrics["loss"])))
        record[f"{step}/loss_before"] = np.array(float(loss))
        record |= {f"{step}/views/{number}": host(view) for number, view in enumerate(views)}
        record |= {f"{step}/grad/{key}": value for key, value in grads.items()}
        record |= {f"{step}/state/{key}": value for key, value in implementation.to_arrays(state).items()}
    return record


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("implementation")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nudges", type=int, default=0)
    given = parser.parse_args()
    for precision in PRECISIONS:
        implementation = registry.load(given.implementation, Execution("cpu", precision))
        for name in NETWORKS:
            np.savez(given.folder / f"{name}-{precision}.npz", **trajectory(implementation, name))
            for number in range(given.nudges if precision == "float64" else 0):
                nudge = np.random.default_rng(number)
                np.savez(given.folder / f"{name}-nudge{number}.npz", **trajectory(implementation, name, nudge))


if __name__ == "__main__":
    main()
