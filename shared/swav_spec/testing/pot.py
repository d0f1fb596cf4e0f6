"""Codes from POT (Python Optimal Transport, Flamary et al. 2021), whose Sinkhorn is independent of this project.

Live where POT is installed; elsewhere as recorded by `python -m swav_spec.testing.pot`.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import numpy as np

from swav_spec.testing.strategies import SHAPES, Problem, bulk, exact

#: (epsilon, iterations) at which POT's kernel form holds cosines.
SETTINGS = ((0.05, 3), (0.5, 1), (0.1, 2), (1.0, 5))
#: The same where the iteration has come to rest, for scores of at most CONVERGED_LARGEST: it contracts
#: by tanh(second difference / (4 epsilon))^2 a time (Franklin and Lorenz 1989), here .06.
CONVERGED = ((1.0, 12),)
CONVERGED_LARGEST = 0.25
RECORDED = len(SHAPES) * len(SETTINGS)
_FILE = Path(__file__).with_name("pot_codes.json")
_LONGER = 3  # times as many iterations of POT's as of ours, where both are at rest


def codes(problem: Problem, *, converged: bool = False) -> np.ndarray:
    """N times POT's plan between even marginals at cost -scores, [N, K].

    Raises:
        ModuleNotFoundError: POT is not installed.
    """
    # POT would import every framework it finds.
    for backend in ("PYTORCH", "JAX", "TENSORFLOW", "CUPY"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{backend}", "1")
    import ot

    rows, columns = problem.scores.shape
    plan = ot.sinkhorn(
        np.full(rows, 1 / rows),
        np.full(columns, 1 / columns),
        -problem.scores,
        reg=problem.epsilon,
        method="sinkhorn_log" if converged else "sinkhorn",
        numItermax=_LONGER * problem.iterations if converged else problem.iterations,
        stopThr=0.0,
        warn=False,
    )
    return plan * rows


@functools.cache
def recorded() -> list[tuple[Problem, np.ndarray]]:
    """RECORDED problems and POT's codes for them."""
    found = json.loads(_FILE.read_text(encoding="utf-8"))["problems"]
    return [
        (Problem(np.array(item["scores"]), item["epsilon"], item["iterations"]), np.array(item["codes"]))
        for item in found
    ]


def _record() -> None:
    import ot

    problems = []
    for number, (shape, (epsilon, iterations)) in enumerate((a, b) for a in SHAPES for b in SETTINGS):
        problem = Problem(exact(bulk("cosines", shape, number)), epsilon, iterations)
        item = problem._asdict() | {"scores": problem.scores.tolist(), "codes": codes(problem).tolist()}
        problems.append(item)
    about = "codes by POT's ot.sinkhorn at a fixed number of iterations, times N"
    text = json.dumps({"about": about, "pot": ot.__version__, "problems": problems}, indent=1)
    _FILE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    _record()
