"""What two frameworks may differ by, per quantity and step; the reasons beside the numbers.

float64: 1e-9 for everything. float32: twice (each side has its own roundings) the larger of

- the roundings of one step: `tolerance.bound` of DEPTH in a row, magnified by GAIN;
- SPREAD_FACTOR times how far float64 runs have parted up to that step whose weights and pixels start some float32
  roundings away, since training magnifies differences from step to step.

Where an activation lies within a few roundings of zero its ReLU is open in one run and shut in another, which moves
some gradient by percents at once, at whatever step that happens. Largest differences of gradients and buffers are
therefore held against the spread of all steps, and what cannot hide behind one activation, the median over the
tensors, against the spread so far.
"""

from __future__ import annotations

import numpy as np

from swav_spec.testing.assertions import SPREAD_FACTOR, VIEWS_FLOAT32, gradient_errors
from swav_spec.tolerance import FLOAT64_BOUND, bound, error

#: Nudged runs that the spread is measured with.
NUDGES = 8
#: Roundings in a row, forward and back: about 8 layers, each a product and a normalisation of some 4 roundings.
DEPTH = 2 * 8 * 4
#: The codes are made of scores over epsilon .05; the loss and all gradients move with them.
GAIN = 1 / 0.05
QUANTITIES = ("views", "loss", "median gradient", "gradients", "weights", "momentum", "queue")
JUMPING = ("gradients", "momentum")


def differences(
    actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], step: int
) -> dict[str, dict[str, float]]:
    """Quantity -> name -> error of one run's step against another's; names on one side only are infinitely far."""
    a, b = _of_step(actual, step), _of_step(expected, step)
    found: dict[str, dict[str, float]] = {quantity: {} for quantity in QUANTITIES}
    for name in sorted(set(a) | set(b)):
        quantity = _quantity(name)
        if quantity is None:
            continue
        found[quantity][name] = error(a[name], b[name]) if name in a and name in b else np.inf
    gradients = [name for name in found["gradients"] if np.isfinite(found["gradients"][name])]
    short = {name: name.removeprefix("grad/") for name in gradients}
    errors = gradient_errors({short[n]: a[n] for n in gradients}, {short[n]: b[n] for n in gradients})
    found["gradients"] |= {name: errors[short[name]] for name in gradients}
    found["median gradient"] = {"over all tensors": float(np.median(list(found["gradients"].values())))}
    return found


def _of_step(record: dict[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
    prefix = f"{step}/"
    return {name.removeprefix(prefix): value for name, value in record.items() if name.startswith(prefix)}


def _quantity(name: str) -> str | None:
    starts = {"views/": "views", "loss": "loss", "grad/": "gradients", "state/model/": "weights"}
    starts |= {"state/momentum/": "momentum", "state/queue": "queue", "state/step": "queue"}
    return next((quantity for start, quantity in starts.items() if name.startswith(start)), None)


def largest(found: dict[str, float]) -> tuple[float, str]:
    """The largest difference and whose it is; 0 where there is nothing, as of a queue before it exists."""
    name = max(found, key=found.get, default="")
    return found.get(name, 0.0), name


def spread(straight: dict[str, np.ndarray], nudged: list[dict[str, np.ndarray]], steps: int) -> dict[str, np.ndarray]:
    """Quantity -> [steps] largest error of any nudged run: up to each step, or of all steps where it may jump."""
    widest = {quantity: np.zeros(steps) for quantity in QUANTITIES}
    for run in nudged:
        for step in range(steps):
            for quantity, found in differences(run, straight, step).items():
                widest[quantity][step] = max(widest[quantity][step], largest(found)[0])
    return {
        quantity: np.full(steps, values.max()) if quantity in JUMPING else np.maximum.accumulate(values)
        for quantity, values in widest.items()
    }


def bounds(precision: str, spreads: dict[str, np.ndarray], steps: int) -> dict[str, np.ndarray]:
    """Quantity -> [steps] largest error allowed between two frameworks."""
    if precision == "float64":
        return {quantity: np.full(steps, FLOAT64_BOUND) for quantity in QUANTITIES}
    rounding = bound(precision, depth=DEPTH, gain=GAIN)
    allowed = {quantity: 2 * np.maximum(rounding, SPREAD_FACTOR * spreads[quantity]) for quantity in QUANTITIES}
    return allowed | {"views": np.full(steps, 2 * VIEWS_FLOAT32)}
