"""The parity gate: a cell is timed only if its first step is that of the other implementations.

From the same weights, images and crops, the first step's loss and update buffers (gradient with weight decay and, in
those recipes, LARC) must agree. They come from the very program that is timed. A whole ResNet's buffers are many
megabytes, so each tensor is summarised by its norm and its projections on fixed random directions.

The first implementation to finish a configuration leaves its summary; later ones are compared with it. Where two
differ, the gate cannot tell which is wrong: the contract tests can, against the specification.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from swav_bench.cells import Cell
from swav_spec import tolerance
from swav_spec.config import Config, Precision
from swav_spec.network import convolutions

PROJECTIONS = 4
#: A tensor's error is measured against its own size, but not less than this share of the largest tensor's.
SMALLEST_SHARE = 1e-3
#: After the last ReLU. Below a ReLU, rounding near zero switches a whole activation's gradient on or off: with batches
#: of 32, float32 was seen to be 3e-2 away from float64 there, and 6e-6 above. In float64 hardly any is that close.
ABOVE_RELU = ("projection_head.3.weight", "projection_head.3.bias", "prototypes.weight")
RELU_BOUND = 0.1
#: Batch normalisation follows this bias: its gradient is nothing but rounding, which LARC may even magnify.
WITHOUT_GRADIENT = "projection_head.0.bias"
_BUFFERS = ("momentum/", "adam_m/")


def key(cell: Cell) -> str:
    """Name of what is compared: cells that share it have the same first step, whatever implementation or queue."""
    fields = cell.to_dict()
    same = {name: fields[name] for name in ("precision", "recipe", "dataset", "batch", "multi_crop", "seed")}
    same |= {name: fields[name] for name in ("network", "crops") if fields[name]}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def judged_precision(precision: Precision) -> Precision:
    """What the gate computes in: lower precisions are judged in float32, as their rounding would explain anything."""
    return "float64" if precision == "float64" else "float32"


def summary(loss: float, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What is kept of a first step.

    Args:
        loss: of the step.
        arrays: Trainer.to_arrays after it.

    Returns:
        JSON values: `loss`, and `tensors`, name -> norm and projections on PROJECTIONS standard normal directions.
    """
    tensors = {}
    for name, array in arrays.items():
        tensor = name.partition("/")[2]
        if name.startswith(_BUFFERS) and tensor != WITHOUT_GRADIENT:
            flat = np.asarray(array, dtype=np.float64).ravel()
            tensors[tensor] = [float(np.linalg.norm(flat)), *_projections(tensor, flat)]
    return {"loss": loss, "tensors": tensors}


def compare(
    own: Mapping[str, Any], other: Mapping[str, Any], against: str, config: Config, precision: Precision
) -> dict[str, Any]:
    """`parity` of a record: errors of `own` relative to `other`, and the bounds that rounding explains."""
    depth = 4 * config.iterations + sum(1 for _ in convolutions(config.network)) + 2
    judged = judged_precision(precision)
    bound = tolerance.bound(judged, depth=depth, gain=1 / config.epsilon)
    above, below = _gradient_errors(own["tensors"], other["tensors"])
    return {
        "against": against,
        "loss_error": _finite(abs(own["loss"] - other["loss"]) / abs(other["loss"])),
        "loss_bound": bound,
        "gradient_error": _finite(above),
        "gradient_bound": bound,
        "backbone_gradient_error": _finite(below),
        "backbone_gradient_bound": bound if judged == "float64" else max(bound, RELU_BOUND),
    }


def verdict(parity: Mapping[str, Any]) -> str | None:
    """Why the gate stays closed, or None."""
    parts = []
    for name in ("loss", "gradient", "backbone_gradient"):
        error, bound = parity[f"{name}_error"], parity[f"{name}_bound"]
        if error is None or error > bound:
            off = "not finite" if error is None else f"off by {error:.1e}"
            parts.append(f"{name.replace('_', ' ')} {off} where rounding explains {bound:.1e}")
    if not parts:
        return None
    return (
        f"the first step differs from {parity['against']}'s: {', '.join(parts)}; "
        "one of the two is wrong, the contract tests tell which"
    )


def _gradient_errors(own: Mapping[str, list[float]], other: Mapping[str, list[float]]) -> tuple[float, float]:
    """Largest error of a tensor above the last ReLU, and of one below."""
    if set(own) != set(other) or not other:
        return math.inf, math.inf
    smallest = SMALLEST_SHARE * max(values[0] for values in other.values())
    above, below = [0.0], [0.0]
    for name, values in other.items():
        scale = max(np.abs(values).max(), smallest, np.finfo(float).tiny)
        error = float(np.abs(np.subtract(own[name], values)).max() / scale)
        (above if name in ABOVE_RELU else below).append(error)
    return float(np.max(above)), float(np.max(below))


def _projections(name: str, flat: np.ndarray) -> list[float]:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    generator = np.random.Generator(np.random.PCG64(seed))
    return [float(generator.standard_normal(len(flat)) @ flat) for _ in range(PROJECTIONS)]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
