"""Where a step's input comes from: images resident on the device, a stream of decoded batches, or ready-made views.

A feed gives the arguments of each step, in order, from any step on. Which of the three it is changes what is
measured, so it is a field of a cell, and they are never mixed.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, Self, TypeVar

from swav_data.canvas import Canvas
from swav_data.encoded import EncodedSet, OnBadImage
from swav_data.epochs import batch_samples
from swav_data.images import ImageSet
from swav_data.stream import Batch, Stream
from swav_spec.config import Config
from swav_spec.multicrop import CropPlan, crop_plan

#: Plans, and with a stream also batches on the device, made ahead of the step that needs them, in a thread.
AHEAD = 4
T = TypeVar("T")


class Feed(Protocol):
    """What a training loop takes its input from.

    Attributes:
        method: the Trainer's method that takes a step: "step", or "step_on_views".
        samples: images in the training set, without those left out.
        skipped: one sentence for each image left out.
        waited_s: seconds so far that the loop has waited for input. The device has waited for at most as long.
    """

    method: str
    waited_s: float

    @property
    def samples(self) -> int: ...

    @property
    def skipped(self) -> tuple[str, ...]: ...

    def arguments(self, steps: range) -> Iterator[tuple[Any, ...]]:
        """The method's arguments after the state, for each step."""


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

    def arguments(self, steps: range) -> Iterator[tuple[Any, ...]]:
        made = _ahead(lambda step: step_plan(self._config, self._data, self._seed, step), steps)
        for plan in _timed(self, made):
            yield self.images, plan


class Streamed:
    """Images that are decoded ahead by worker processes and sent to the device batch by batch, ahead as well.

    Used in a `with` statement, which starts the workers and, for on_bad_image "skip", looks at every image once.
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
        canvas: Canvas | None = None,
        on_bad_image: OnBadImage = "error",
    ) -> None:
        self._trainer, self._config, self._seed = trainer, config, seed
        self._stream = Stream(
            images,
            batch=config.batch,
            seed=seed,
            steps=range(0),
            workers=workers,
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

    def __enter__(self) -> Self:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.__exit__(*error)

    def arguments(self, steps: range) -> Iterator[tuple[Any, ...]]:
        self._stream.steps = steps
        batches = iter(self._stream)
        with contextlib.closing(batches):  # type: ignore[type-var]
            yield from _timed(self, _ahead(lambda _: self._on_device(next(batches)), steps))

    def _on_device(self, batch: Batch) -> tuple[Any, CropPlan]:
        plan = crop_plan(
            self._config,
            seed=self._seed,
            epoch=batch.epoch,
            samples=batch.samples,
            heights=batch.heights,
            widths=batch.widths,
        )
        return self._trainer.to_device(batch.images), plan


class ReadyViews:
    """The views of one batch, made once: what a step costs without its crops. The same ones in every step."""

    method = "step_on_views"

    def __init__(self, trainer: Any, data: ImageSet, config: Config, *, seed: int) -> None:
        images = trainer.to_device(data.images)
        self.views = trainer.views(images, step_plan(config, data, seed, 0), config)
        trainer.fence(*self.views)
        self.samples = len(data)
        self.skipped = data.skipped
        self.waited_s = 0.0

    def arguments(self, steps: range) -> Iterator[tuple[Any, ...]]:
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


def _timed(feed: Resident | Streamed, items: Iterator[T]) -> Iterator[T]:
    """The items; `feed.waited_s` grows by the time that they are waited for."""
    while True:
        asked = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        finally:
            feed.waited_s += time.perf_counter() - asked
        yield item


def _ahead(make: Callable[[int], T], steps: Iterable[int]) -> Iterator[T]:
    """make(step) for each step, in order, up to AHEAD of them made in advance in a thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="input") as pool:
        waiting = iter(steps)
        futures = collections.deque(pool.submit(make, step) for step in itertools.islice(waiting, AHEAD))
        while futures:
            item = futures.popleft().result()
            futures.extend(pool.submit(make, step) for step in itertools.islice(waiting, 1))
            yield item
