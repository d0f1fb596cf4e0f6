"""What changes from step to step: the learning rate, the freeze of the prototypes, the life of the queue."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from swav_spec.config import Config, Schedule
from swav_spec.errors import require
from swav_spec.queue import is_full


def learning_rates(schedule: Schedule) -> np.ndarray:
    """Learning rate of every step.

    Warm-up over w steps is linspace(start_warmup, base_lr, w), both ends included (w = 1: the start value);
    then, for t = 0 .. n-1 of the remaining n steps, final + (base - final) (1 + cos(pi t / n)) / 2, so that
    final_lr is approached and not reached.

    Returns:
        [steps] float64.
    """
    warmup = np.linspace(schedule.start_warmup, schedule.base_lr, schedule.warmup_steps)
    rest = schedule.steps - schedule.warmup_steps
    cosine = 1 + np.cos(np.pi * np.arange(rest) / max(rest, 1))
    return np.concatenate([warmup, schedule.final_lr + 0.5 * (schedule.base_lr - schedule.final_lr) * cosine])


class StepSettings(NamedTuple):
    """What a step needs to know of its place in the run; all of it known before the step starts.

    Attributes:
        lr: learning rate.
        frozen: the prototypes get no gradient, weight decay, momentum or buffer in this step.
        push: this step's embeddings enter the queue.
        use_queue: the queue was full before this step, so its rows join the assignment.
    """

    lr: float
    frozen: bool
    push: bool
    use_queue: bool


def step_settings(config: Config, step: int, queue_count: int) -> StepSettings:
    """Settings of step number `step` (from 0) when the queue has received `queue_count` rows per view.

    Raises:
        InvalidInput: the step lies beyond the schedule.
    """
    require(0 <= step < config.schedule.steps, "step", step, f"in 0..{config.schedule.steps - 1}, the schedule")
    rows = config.queue_rows
    return StepSettings(
        lr=float(_cached_rates(config.schedule)[step]),
        frozen=step < config.freeze_steps,
        push=rows > 0 and step >= config.queue_start,
        use_queue=is_full(queue_count, rows),
    )


_cached_rates = functools.lru_cache(maxsize=8)(learning_rates)
