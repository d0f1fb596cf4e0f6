"""Writes trace_spread.npz: how far float64 runs of the golden traces part that start a few float32 roundings apart.

Run by hand, with an implementation that passes test_traces in float64:

    PYTHONPATH=shared:impls python tests/contract/make_trace_spread.py torch
"""

import sys
from pathlib import Path

import numpy as np

from swav_spec import registry
from swav_spec.config import Execution
from swav_spec.network import is_buffer
from swav_spec.testing.golden import play, trace
from swav_spec.tolerance import error

HERE = Path(__file__).parent
RUNS = 24
STEPS = ("loss", "param_norms", "grad_norms_raw", "prototypes_raw_after", "queue_after")
ENDS = ("emb_step0", "scores_step0", "scores_last", "eval_backbone", "eval_emb")


def spread_of(straight, nudged):
    """Errors of one run: [T] for what every step records, [1] for what is recorded once."""
    errors = {name: [error(a, b) for a, b in zip(nudged[name], straight[name], strict=True)] for name in STEPS[:-1]}
    if straight["queue_after"][0] is not None:
        errors["queue_after"] = [
            error(a, b) for a, b in zip(nudged["queue_after"], straight["queue_after"], strict=True)
        ]
    errors |= {name: [error(nudged[name], straight[name])] for name in ENDS}
    buffers = [name for name in straight["model"] if is_buffer(name) and not name.endswith("num_batches_tracked")]
    return errors | {f"bn/{name}": [error(nudged["model"][name], straight["model"][name])] for name in buffers}


def main(implementation_name):
    implementation = registry.load(implementation_name, Execution("cpu", "float64"))
    arrays = {}
    for name in ("g_trace_a", "g_trace_b_bnzero"):
        golden = trace(HERE.parent / "golden", name)
        straight = play(implementation, golden, "float64")
        for run in range(RUNS):
            nudged = play(implementation, golden, "float64", nudge=np.random.default_rng(run))
            for quantity, errors in spread_of(straight, nudged).items():
                key = f"{name}/{quantity}"
                arrays[key] = np.maximum(arrays.get(key, 0.0), errors)
        print(name, "loss", np.array2string(arrays[f"{name}/loss"], precision=1))
    np.savez_compressed(HERE / "trace_spread.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
