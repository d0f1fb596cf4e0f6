"""The training loop, over the contract: the same one for every framework, for measured cells and for `train`.

Input comes from a feed (inputs.py). The host waits for the device at fences only, and reads metrics only there, after
the clock has stopped.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from swav_bench.inputs import Feed
from swav_spec.config import Config

#: The final loss of a run is the mean over this share of its steps, at least so many of them.
FINAL_SHARE, FEWEST_FINAL = 0.1, 10


def final_steps(steps: int) -> int:
    """How many of the last steps a run's final loss is the mean of."""
    return max(FEWEST_FINAL, round(FINAL_SHARE * steps))


class Span(NamedTuple):
    """What happened between two fences.

    Attributes:
        done: steps done since the start of the run.
        wall_s, cpu_s: wall clock, and CPU time of all threads of the process.
        waited_s: of wall_s, how long the loop waited for its input; the device waited for at most as long.
        fence_s: of wall_s, how long the device was still busy after the last step had been asked for.
        late_s: how long the last loss took to arrive after the fence; next to nothing, if the fence waits.
        losses: [steps] float64, of every step in between.
        metrics: of the last step, on the host (see Trainer.step).
    """

    done: int
    wall_s: float
    cpu_s: float
    waited_s: float
    fence_s: float
    late_s: float
    losses: np.ndarray
    metrics: dict[str, np.ndarray]


class NotFiniteError(ArithmeticError):
    """Training broke down: scores or the loss are not finite."""


def train(
    trainer: Any,
    state: Any,
    feed: Feed,
    *,
    fences: Iterable[int],
    observe: Callable[[Span], None],
    until: int | None = None,
    visit: Callable[[Any], None] | None = None,
) -> Any:
    """Trains from `state.step` to the last fence.

    Args:
        trainer: an implementation that fulfils Device, Views and Trainer.
        state: from Trainer.init or from_arrays; void afterwards.
        feed: its arguments for each step.
        fences: increasing numbers of steps done, after each of which the device is waited for.
        observe: is told of each span, outside of the timed spans.
        until: the last fence, where `fences` are found while training and do not tell it beforehand.
        visit: is then given the state, to read it; what it raises ends the training.

    Returns:
        The state after the last fence.

    Raises:
        NotFiniteError: names the step and the view.
    """
    config: Config = state.config
    advance = getattr(trainer, feed.method)
    start = int(state.step)
    end_of_run = list(fences)[-1] if until is None else until
    with contextlib.closing(feed.arguments(range(start, end_of_run))) as arguments:
        for stop in fences:
            history = []
            waited, cpu, wall = feed.waited_s, time.process_time(), time.perf_counter()
            for given in itertools.islice(arguments, stop - start):
                state, metrics = advance(state, *given)
                history.append(metrics)
            asked = time.perf_counter()
            trainer.fence(state, history[-1])
            end = time.perf_counter()
            cpu, waited = time.process_time() - cpu, feed.waited_s - waited
            trainer.to_host(history[-1]["loss"])
            late = time.perf_counter() - end
            losses = _checked_losses(trainer, config, history, start)
            last = {name: np.asarray(trainer.to_host(value)) for name, value in history[-1].items()}
            observe(
                Span(
                    done=stop,
                    wall_s=end - wall,
                    cpu_s=cpu,
                    waited_s=waited,
                    fence_s=end - asked,
                    late_s=late,
                    losses=losses,
                    metrics=last,
                )
            )
            if visit:
                visit(state)
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
