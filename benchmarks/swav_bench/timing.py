"""From block times to a figure with its spread.

A block is a run of steps with a fence at each end, so that an asynchronous device is charged for what it did.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from swav_bench.cells import BLOCKS, FEWEST_BLOCKS, WARMUP_STEPS
from swav_spec.config import Config
from swav_spec.errors import require

RESAMPLES = 2000
#: Calls before the timed ones: the first compiles, CUDA graphs are captured at the fourth, the last say how long one
#: takes.
WARMUP_CALLS = 5


class Calls(NamedTuple):
    """Times of something that was called again and again: `per_block` calls between two fences, wall seconds each."""

    per_block: int
    block_s: list[float]


@dataclass(frozen=True)
class Blocks:
    """How the steps of a run are timed: `warmup` steps first, then `count` blocks of `steps` each."""

    warmup: int
    count: int
    steps: int

    @property
    def fences(self) -> list[int]:
        """Numbers of steps after which the device is waited for: the first, the end of warm-up, each block's end."""
        ends = [self.warmup + block * self.steps for block in range(self.count + 1)]
        return sorted({1, *ends})


def blocks(config: Config) -> Blocks:
    """Blocks that fill the run's schedule. What changes a step's work comes before the first of them.

    Warm-up lasts at least WARMUP_STEPS, and two steps past the first use of the queue and the end of the freeze where
    the run is long enough for that.

    Raises:
        InvalidInput: the run is too short for the warm-up and FEWEST_BLOCKS blocks.
    """
    total = config.schedule.steps
    require(total >= WARMUP_STEPS + FEWEST_BLOCKS, "steps", total, f"at least {WARMUP_STEPS + FEWEST_BLOCKS}")
    settled = [WARMUP_STEPS]
    if config.queue_rows:
        settled.append(config.queue_start + config.queue_rows // config.batch + 2)
    if config.freeze_steps:
        settled.append(config.freeze_steps + 2)
    available = total - max(step for step in settled if step <= total - FEWEST_BLOCKS)
    steps = max(1, available // BLOCKS)
    count = min(available // steps, BLOCKS)
    return Blocks(warmup=total - count * steps, count=count, steps=steps)


def median_interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float, float]:
    """Median and the percentile bootstrap interval of it (Efron 1979); the same for the same values.

    Args:
        values: at least one.
        level: share of resampled medians inside the interval.

    Returns:
        Median, lower end, upper end.
    """
    array = np.asarray(values, dtype=np.float64)
    require(array.ndim == 1 and array.size >= 1, "values", array.shape, "a list of at least one number")
    draws = np.random.Generator(np.random.PCG64(0)).integers(array.size, size=(RESAMPLES, array.size))
    medians = np.median(array[draws], axis=1)
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return float(np.median(array)), float(low), float(high)


def time_calls(
    call: Callable[[], Any], fence: Callable[[Any], None], *, budget_s: float, per_block: int, count: int = BLOCKS
) -> Calls:
    """Times `call` in blocks with a fence at each end, as steps are timed, after a warm-up of its own.

    Args:
        call: gives something that the fence can wait for.
        fence: Device.fence.
        budget_s: for all blocks together; where they would take longer they get shorter, then fewer.
        per_block: calls in a block, at most.
        count: blocks, at most; FEWEST_BLOCKS of one call are made whatever they take.
    """
    times = []
    for _ in range(WARMUP_CALLS):
        started = time.perf_counter()
        fence(call())
        times.append(time.perf_counter() - started)
    affordable = int(budget_s / max(min(times[1:]), 1e-9))
    per_block = max(1, min(per_block, affordable // count))
    count = max(FEWEST_BLOCKS, min(count, affordable // per_block))
    block_s = []
    for _ in range(count):
        started = time.perf_counter()
        for _ in range(per_block):
            result = call()
        fence(result)
        block_s.append(time.perf_counter() - started)
    return Calls(per_block, block_s)
