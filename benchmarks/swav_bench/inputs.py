"""Where a step's input comes from: images resident on the device, a stream of decoded batches, or ready-made views.

A feed gives the arguments of each step, in order, from any step on. Which of the three it is changes what is
measured, so it is a field of a cell, and they are never mixed.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

from swav_bench.one_batch import views_of
from swav_data import stream
from swav_data.canvas import Canvas
from swav_data.encoded import EncodedSet, OnBadImage, check_on_bad_image
from swav_data.epochs import batch_samples
from swav_data.images import ImageSet
from swav_spec.config import Config
from swav_spec.errors import require
from swav_spec.multicrop import CropPlan, crop_plan

#: Plans made ahead of the steps that need them; and batches on the device beside the one in use, which are large.
PLANS_AHEAD, BATCHES_AHEAD = 4, 2
Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Reading:
    """How images are read that are not in memory.

    Attributes:
        workers: processes that decode; 0 decodes in a thread of the training process.
        prefetch: batches that they decode ahead, at least 1.
        on_bad_image: "error" ends a run at an image that cannot be decoded; "skip" looks at every image once at the
            start, leaves such images out and says so.

    Raises:
        InvalidInput: a field is out of its range.
    """

    workers: int = 0
    prefetch: int = 2
    on_bad_image: OnBadImage = "error"

    def __post_init__(self) -> None:
        require(self.workers >= 0, "workers", self.workers, "at least 0")
        require(self.prefetch >= 1, "prefetch", self.prefetch, "at least 1 batch")
        check_on_bad_image(self.on_bad_image)


class Feed(Protocol):
    """What a training loop takes its input from.

    Attributes:
        method: the Trainer's method that takes a step: "step", or "step_on_views".
        samples: images in the training set, without those left out.
        skipped: one sentence for each image left out.
        waited_s: seconds so far that the loop has waited for plans and decoded images. The device has waited for at
            most as long. A copy to the device is not counted: it may wait for the device's earlier work.
    """

    method: str
    waited_s: float

    @property
    def samples(self) -> int: ...

    @property
    def skipped(self) -> tuple[str, ...]: ...

    def arguments(self, steps: range) -> Generator[Arguments, None, None]:
        """The method's arguments after the state, for each step. Closing it ends what is made ahead."""


class Resident:
    """Images that all lie on the device: a step's plan of numbers is all that goes there."""

    method = "step"

    def __init__(self, trainer: Any, data: ImageSet, config: Config, *, seed: int) -> None:
        self._data, self._config, self._seed = data, config, seed
        self.images = trainer.to_device(data.images)
        trainer.fence(self.images)
        self.samples = len(data)
        self.skipped = data.skipped
        self.waited_s = 0.0

    def arguments(self, steps: range) -> Generator[Arguments, None, None]:
        yield from _ahead(self, self._made, steps, PLANS_AHEAD)

    def _made(self, step: int) -> _Made:
        plan = step_plan(self._config, self._data, self._seed, step)
        return _Made((self.images, plan), time.perf_counter())


class Streamed:
    """Images that are decoded ahead by worker processes and sent to the device batch by batch, ahead as well.

    Used in a `with` statement, which starts the workers and, for on_bad_image "skip", looks at every image once.

    Args:
        trainer: fulfils Device.
        images: training images; those in memory need no decoding and therefore no workers.
        config: its batch, crops and augmentation are used.
        seed: of the run.
        workers, prefetch, on_bad_image: see Reading.
        canvas: bounds on the images' sides, see Stream.

    Raises:
        InvalidInput: an argument is out of its range, or, in iterating over `arguments`, an image cannot be decoded:
            when its batch is due, so that all steps before it are made.
        WorkerLost: in iterating: a worker process ended.
    """

    method = "step"

    def __init__(
        self,
        trainer: Any,
        images: EncodedSet | ImageSet,
        config: Config,
        *,
        seed: int,
        workers: int = 0,
        prefetch: int = 2,
        canvas: Canvas | None = None,
        on_bad_image: OnBadImage = "error",
    ) -> None:
        self._trainer, self._config, self._seed = trainer, config, seed
        self._stream = stream.Stream(
            images,
            batch=config.batch,
            seed=seed,
            steps=range(0),
            workers=workers,
            prefetch=prefetch,
            canvas=canvas,
            on_bad_image=on_bad_image,
        )
        self.waited_s = 0.0

    @property
    def samples(self) -> int:
        return self._stream.samples

    @property
    def skipped(self) -> tuple[str, ...]:
        return self._stream.skipped

    @property
    def workers(self) -> int:
        """Processes that decode; 0 for images in memory, whatever was asked for."""
        return self._stream.workers

    def __enter__(self) -> Self:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.__exit__(*error)

    def arguments(self, steps: range) -> Generator[Arguments, None, None]:
        # Left in the reverse order: first the thread that takes batches ends, then what decodes them.
        with contextlib.closing(self._stream.batches(steps)) as batches:
            yield from _ahead(self, lambda _: self._made(next(batches)), steps, BATCHES_AHEAD)

    def _made(self, batch: stream.Batch) -> _Made:
        plan = crop_plan(
            self._config,
            seed=self._seed,
            epoch=batch.epoch,
            samples=batch.samples,
            heights=batch.heights,
            widths=batch.widths,
        )
        ready = time.perf_counter()
        return _Made(self.sent(batch, plan), ready)

    def sent(self, batch: stream.Batch, plan: CropPlan) -> Arguments:
        """A batch on the device, with its plan. The batch's arrays are its own: nothing writes to them any more."""
        return self._trainer.to_device(batch.images), plan


class ReadyViews:
    """The views of the first batch, made once: what a step costs without its crops. The same ones in every step.

    They are the specification's where the implementation makes none by the contract (it does not fulfil Views).
    """

    method = "step_on_views"

    def __init__(self, trainer: Any, data: EncodedSet | ImageSet, config: Config, *, seed: int) -> None:
        with Streamed(trainer, data, config, seed=seed) as feed, contextlib.closing(feed.arguments(range(1))) as first:
            images, plan = next(first)
        self.views = views_of(trainer, images, plan, config)
        trainer.fence(*self.views)
        self.samples = len(data)
        self.skipped = data.skipped
        self.waited_s = 0.0

    def arguments(self, steps: range) -> Generator[Arguments, None, None]:
        for _ in steps:
            yield (self.views,)


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


class _Made(NamedTuple):
    """A step's arguments, and when all that the host has to do for them was done."""

    arguments: Arguments
    ready: float


def _ahead(
    feed: Resident | Streamed, make: Callable[[int], _Made], steps: Iterable[int], ahead: int
) -> Generator[Arguments, None, None]:
    """The arguments of each step, in order, up to `ahead` of them made in advance in a thread.

    `feed.waited_s` grows by the time that they are waited for. What `make` raises is raised when its step is due.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="input")
    try:
        waiting = iter(steps)
        futures = collections.deque(pool.submit(make, step) for step in itertools.islice(waiting, ahead))
        while futures:
            asked = time.perf_counter()
            made = futures.popleft().result()
            feed.waited_s += max(0.0, min(made.ready, time.perf_counter()) - asked)
            futures.extend(pool.submit(make, step) for step in itertools.islice(waiting, 1))
            yield made.arguments
            del made  # the device's copy, which the loop may already be done with
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
