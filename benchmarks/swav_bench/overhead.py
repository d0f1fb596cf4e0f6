"""SwAV's cost over its bare encoder: forward and backward of backbone and head, in the process that trains.

The encoder is timed right after the training steps, at their shapes and in blocks like theirs, so that both see the
same clocks and the same neighbours. It compiles a program of its own, which is none of the training's figures.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from swav_bench.timing import Blocks, time_calls
from swav_spec.config import Config

#: Of the training's time, for the encoder's blocks.
SHARE = 0.1


def measure(trainer: Any, state: Any, plan: Blocks, train_s: float) -> dict[str, Any]:
    """Raw values of a record's `overhead`.

    Args:
        trainer: it has `encoder_step`, which leaves the state as it is.
        state: of the run, at its end.
        plan: the training's blocks: the encoder's are of as many steps, or fewer where that would take too long.
        train_s: how long training took.
    """
    views = random_views(trainer, state.config)
    calls = time_calls(
        lambda: trainer.encoder_step(state, views),
        trainer.fence,
        budget_s=SHARE * train_s,
        per_block=plan.steps,
        count=plan.count,
    )
    return {"encoder_steps_per_block": calls.per_block, "encoder_block_s": calls.block_s}


def random_views(trainer: Any, config: Config) -> list[Any]:
    """Normal noise of a step's shapes, on the device: as costly as views, and no program has to be compiled for it."""
    dtype: Any = np.float64 if trainer.execution.precision == "float64" else np.float32
    random = np.random.Generator(np.random.PCG64(0))
    shapes = [(count * config.batch, size, size, 3) for size, count in config.resolutions]
    return [trainer.to_device(random.standard_normal(shape, dtype=dtype)) for shape in shapes]
