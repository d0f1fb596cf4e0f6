"""The training loop, over the contract: the same one for every framework, for measured cells and for `train`.

Images stay on the device; a plan of numbers goes there for each step. The host waits for the device at fences only,
and reads metrics only there, after the clock has stopped.
"""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from swav_data.epochs import batch_samples
from swav_data.images import ImageSet
from swav_spec.config import Config
from swav_spec.multicrop import CropPlan, crop_plan

#: Plans drawn ahead of the step that needs them, in a thread: drawing takes some microseconds a crop.
AHEAD = 4


class Span(NamedTuple):
    """What happened between two fences.

    Attributes:
        done: steps done since the start of the run.
        wall_s, cpu_s: wall clock, and CPU time of all threads of the process.
        late_s: how long the last loss took to arrive after the fence; next to nothing, if the fence waits.
        losses: [steps] float64, of every step in between.
        metrics: of the last step, on the host (see Trainer.step).
    """

    done: int
    wall_s: float
    cpu_s: float
    late_s: float
    losses: np.ndarray
    metrics: dict[str, np.ndarray]


class NotFiniteError(ArithmeticError):
    """Training broke down: scores or the loss are not finite."""


def step_plan(config: Config, data: ImageSet, seed: int, step: int) -> CropPlan:
    """The crops of step number `step`, of images by their position in `data`."""
    epoch, samples = batch_samples(len(data), config.batch, seed, step)
    return crop_plan(
        config,
        seed=seed,
        epoch=epoch,
        samples=samples,
        heights=data.heights[samples],
        widths=data.widths[samples],
        index=samples,
    )


def train(
    trainer: Any,
    state: Any,
    images: Any,
    data: ImageSet,
    *,
    seed: int,
    fences: Sequence[int],
    observe: Callable[[Span], None],
) -> Any:
    """Trains from `state.step` to the last fence.

    Args:
        trainer: an implementation that fulfils Device, Views and Trainer.
        state: from Trainer.init or from_arrays; void afterwards.
        images: `data.images` on the device.
        data: the training set.
        seed: of the order of the epochs and the crops.
        fences: increasing numbers of steps done, after each of which the device is waited for.
        observe: is told of each span, outside of the timed spans.

    Returns:
        The state after the last fence.

    Raises:
        NotFiniteError: names the step and the view.
    """
    config: Config = state.config
    start = int(state.step)
    plans = _ahead(lambda step: step_plan(config, data, seed, step), range(start, fences[-1]))
    for stop in fences:
        history = []
        cpu, wall = time.process_time(), time.perf_counter()
        for plan in itertools.islice(plans, stop - start):
            state, metrics = trainer.step(state, images, plan)
            history.append(metrics)
        trainer.fence(state, history[-1])
        end = time.perf_counter()
        cpu = time.process_time() - cpu
        trainer.to_host(history[-1]["loss"])
        late = time.perf_counter() - end
        losses = _checked_losses(trainer, config, history, start)
        last = {name: np.asarray(trainer.to_host(value)) for name, value in history[-1].items()}
        observe(Span(done=stop, wall_s=end - wall, cpu_s=cpu, late_s=late, losses=losses, metrics=last))
        start = stop
    return state


def _checked_losses(trainer: Any, config: Config, history: list[dict[str, Any]], first: int) -> np.ndarray:
    losses = []
    for step, metrics in enumerate(history, start=first):
        finite = np.atleast_1d(trainer.to_host(metrics["finite"]))
        if not finite.all():
            view = config.assigned[int(np.argmin(finite))]
            raise NotFiniteError(f"scores of view {view} were not finite in step {step}")
        losses.append(float(trainer.to_host(metrics["loss"])))
        if not np.isfinite(losses[-1]):
            raise NotFiniteError(f"the loss was {losses[-1]} in step {step}")
    return np.array(losses)


def _ahead(make: Callable[[int], CropPlan], steps: Iterable[int]) -> Iterator[CropPlan]:
    """make(step) for each step, in order, up to AHEAD of them made in advance in a thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="plans") as pool:
        waiting = iter(steps)
        futures = collections.deque(pool.submit(make, step) for step in itertools.islice(waiting, AHEAD))
        while futures:
            plan = futures.popleft().result()
            futures.extend(pool.submit(make, step) for step in itertools.islice(waiting, 1))
            yield plan
