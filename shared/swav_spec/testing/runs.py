"""Short training runs of the implementation under test, step by step, and what the reference makes of each step.

Every step is compared from the implementation's own state before it, so that errors do not add up; how far a
right step may be from the reference's is measured, by moving the reference's inputs a little: for float32 by a small
number, and what a rounding does follows in proportion; where products are of less, by one of their roundings, and what
that does in the weights of all layers at once is about what it does in all their products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from swav_spec import tolerance
from swav_spec.config import Config, CropGroup, Network, Optimizer, Precision, Schedule
from swav_spec.network import convolutions, initial_weights, is_buffer
from swav_spec.testing.assertions import assert_within, is_low
from swav_spec.testing.reference import Reference, State
from swav_spec.testing.strategies import exact, generator
from swav_spec.testing.subject import Subject

#: Relative size of the moves by which gains are measured for float32.
NUDGE = 2.0**-20
#: Moves of all inputs at random, of which the largest effect counts; in low precisions, where they are no longer small
#: and some activation changes its sign in one and not in another, more.
GAIN_DRAWS, LOW_GAIN_DRAWS = 4, 8

_WHOLE = (0.3, 1.0)
_SCHEDULE = Schedule(steps=6, base_lr=0.5, final_lr=0.05, warmup_steps=2, start_warmup=0.1)
#: Small networks, one for each block and stem, with everything that a recipe can have spread over them.
SCENARIOS = MappingProxyType(
    {
        "conv, queue, freeze": Config(
            batch=4,
            crops=(CropGroup(8, 2, _WHOLE), CropGroup(6, 2, _WHOLE)),
            network=Network("conv", (1, 1), (4, 4), (2, 1), "none", hidden=8, embedding=4, prototypes=5),
            schedule=_SCHEDULE,
            optimizer=Optimizer(weight_decay=0.05, trust=0.1),
            epsilon=0.1,
            queue_length=9,  # floored to two batches
            queue_start=1,
            freeze_steps=2,
        ),
        "basic, sgd, views of one size apart": Config(
            batch=4,
            crops=(CropGroup(8, 1, _WHOLE), CropGroup(6, 1, _WHOLE), CropGroup(8, 1, _WHOLE)),
            network=Network("basic", (1, 1), (4, 4), (1, 2), "cifar", hidden=8, embedding=4, prototypes=5),
            schedule=Schedule(steps=3, base_lr=0.05),
            optimizer=Optimizer("sgd", momentum=0.5, weight_decay=0.05),
            assigned=(2, 0),
            epsilon=0.2,
            iterations=2,
            temperature=0.25,
            queue_length=4,
        ),
        "bottleneck, full queue": Config(
            batch=4,
            crops=(CropGroup(24, 2, _WHOLE),),
            network=Network("bottleneck", (1, 1), (4, 4), (1, 2), "imagenet", hidden=8, embedding=4, prototypes=5),
            schedule=Schedule(steps=3, base_lr=0.5),
            optimizer=Optimizer(weight_decay=0.05, trust=0.1),
            epsilon=0.1,
            queue_length=4,
        ),
    }
)


@dataclass
class Step:
    """One step of the subject's, and the reference's from the same state and views.

    Attributes:
        where: scenario and number, for messages.
        config: of the run; number: of the step.
        before, after: the subject's `to_arrays`.
        views: as given to it.
        outputs: the subject's features, embeddings and scores, of train mode.
        loss, grads: the subject's `loss_and_grads` before the step.
        metrics: the subject's, on the host.
        expected: the same names from the reference.
        gains: by quantity, relative change over the relative change of the inputs.
        depth: roundings of float32 one after another.
    """

    where: str
    config: Config
    number: int
    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]
    views: list[np.ndarray]
    outputs: tuple[np.ndarray, ...]
    loss: float
    grads: dict[str, np.ndarray]
    metrics: dict[str, np.ndarray]
    expected: Outcome
    gains: Outcome
    depth: float = field(default=1.0)

    def close(self, subject: Subject, actual: Any, expected: Any, gain: Any, what: str) -> None:
        """Asserts agreement within what rounding through the network explains at this step."""
        # In low precisions the gain is of all layers' roundings already.
        depth = 1.0 if is_low(subject.precision) else self.depth
        bound = tolerance.bound(subject.precision, depth=depth, gain=max(float(gain), 1.0))
        assert_within(np.asarray(actual), np.asarray(expected), bound, what=f"{self.where}: {what}")

    def follows(self, subject: Subject, actual: Any, expected: Any, what: str) -> None:
        """Asserts agreement of what follows from arrays that were shown, without any product of the network."""
        bound = tolerance.bound(subject.maths, depth=self.depth)
        assert_within(np.asarray(actual), np.asarray(expected), bound, what=f"{self.where}: {what}")


@dataclass(frozen=True)
class Outcome:
    """What the reference says of a step; or, in the same places, the gains of it."""

    outputs: Any
    evaluated: Any
    loss: Any
    grads: dict[str, Any]
    after: dict[str, Any]
    metrics: dict[str, Any]


def start(subject: Subject, config: Config, seed: int) -> Any:
    """The subject's state at step 0. BN parameters are not at 1 and 0, so that what they do shows."""
    return subject.implementation.init(config, weights_of(subject, config, seed))


def weights_of(subject: Subject, config: Config, seed: int) -> dict[str, np.ndarray]:
    """Initial weights in the subject's precision."""
    random = generator(seed)
    weights = initial_weights(config.network, seed)
    for name, value in weights.items():
        if value.ndim == 1 and not is_buffer(name):
            weights[name] = value + random.normal(scale=0.25, size=value.shape)
        weights[name] = weights[name] if "num_" in name else exact(weights[name]).astype(subject.dtype)
    return weights


def views_of(subject: Subject, config: Config, seed: int) -> list[np.ndarray]:
    """Normal pixels, correlated over views as real ones are."""
    random = generator(seed)
    groups = []
    for side, count in config.resolutions:
        own = random.normal(size=(count, config.batch, side, side, 3))
        common = random.normal(size=(1, config.batch, 1, 1, 3))
        groups.append(exact(own + common).reshape(-1, side, side, 3).astype(subject.dtype))
    return groups


def run(subject: Subject, scenario: str, seed: int) -> list[Step]:
    """All steps of a scenario; kept with the subject, for properties look at the same ones."""
    key = (scenario, seed)
    if key not in subject.kept:
        subject.kept[key] = list(_steps(subject, scenario, seed))
    return subject.kept[key]


def runs(subject: Subject, seed: int) -> list[Step]:
    """All steps of all scenarios."""
    return [step for scenario in SCENARIOS for step in run(subject, scenario, seed)]


def _steps(subject: Subject, scenario: str, seed: int) -> Iterator[Step]:
    config, mine = SCENARIOS[scenario], subject.implementation
    state = start(subject, config, seed)
    for number in range(config.schedule.steps):
        views = views_of(subject, config, 1000 * seed + number)
        before = mine.to_arrays(state)
        given = subject.device_views(views)
        outputs = tuple(subject.to_host(array) for array in mine.forward(state, given, train=True))
        loss, grads = mine.loss_and_grads(state, given)
        state, metrics = mine.step_on_views(state, given)
        after = mine.to_arrays(state)
        expected = outcome(config, before, views)
        yield Step(
            where=f"{scenario}, step {number}",
            config=config,
            number=number,
            before=before,
            after=after,
            views=views,
            outputs=outputs,
            loss=float(loss),
            grads={name: np.asarray(value) for name, value in grads.items()},
            metrics={name: subject.to_host(value) for name, value in metrics.items()},
            expected=expected,
            gains=_gains(subject.precision, config, before, views, expected, seed),
            depth=2.0 * len(list(convolutions(config.network))) + 8,
        )


def outcome(config: Config, before: dict[str, np.ndarray], views: list[np.ndarray]) -> Outcome:
    """The reference's step from a state."""
    reference = Reference()
    state: State = reference.from_arrays(config, before)
    loss, grads = reference.loss_and_grads(state, views)
    after, metrics = reference.step_on_views(state, views)
    return Outcome(
        outputs=reference.forward(state, views, train=True),
        evaluated=reference.forward(state, views, train=False),
        loss=loss,
        grads=grads,
        after=reference.to_arrays(after),
        metrics=metrics,
    )


def _gains(
    precision: Precision,
    config: Config,
    before: dict[str, np.ndarray],
    views: list[np.ndarray],
    expected: Outcome,
    seed: int,
) -> Outcome:
    """The largest gain of each quantity over random moves of every input; 1 in float64, whose bound knows no gain."""
    random = generator(seed)
    draws = 0 if precision == "float64" else LOW_GAIN_DRAWS if is_low(precision) else GAIN_DRAWS
    size = tolerance.UNIT_ROUNDOFF[precision] if is_low(precision) else NUDGE

    def nudged(array: np.ndarray) -> np.ndarray:
        return array if array.dtype.kind != "f" else array * (1 + size * random.choice([-1.0, 1.0], size=array.shape))

    moved = [
        outcome(config, {name: nudged(np.asarray(v)) for name, v in before.items()}, [nudged(v) for v in views])
        for _ in range(draws)
    ]

    def gain(get: Callable[[Outcome], Any]) -> float:
        reference = np.asarray(get(expected))
        return max((tolerance.error(np.asarray(get(one)), reference) / size for one in moved), default=1.0)

    return Outcome(
        outputs=[gain(lambda one, i=i: one.outputs[i]) for i in range(len(expected.outputs))],
        evaluated=[gain(lambda one, i=i: one.evaluated[i]) for i in range(len(expected.evaluated))],
        loss=gain(lambda one: one.loss),
        grads={name: gain(lambda one, name=name: one.grads[name]) for name in expected.grads},
        after={name: gain(lambda one, name=name: one.after[name]) for name in expected.after},
        metrics={name: gain(lambda one, name=name: one.metrics[name]) for name in expected.metrics},
    )
