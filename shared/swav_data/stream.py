"""Batches of a large image set, decoded by worker processes ahead of their use.

Batches come in exactly the order of epochs.py, whatever the number of workers, and start at any step. Workers
write pixels into shared memory, `prefetch` batches of it; only paths or encoded bytes travel to them.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Generator, Iterator
from typing import NamedTuple, Self

import numpy as np

from swav_data.canvas import Canvas
from swav_data.decode import fitted
from swav_data.encoded import Encoded, EncodedSet, OnBadImage, check_on_bad_image
from swav_data.epochs import batch_samples, shard, steps_per_epoch
from swav_data.images import ImageSet
from swav_data.workers import Pool, Task, decode_into, faults_of
from swav_spec.errors import require


class Batch(NamedTuple):
    """What a step is made of; B images, this rank's part.

    Attributes:
        step: from the start of the run.
        epoch: goes on to crop_plan.
        samples: [B] int64, numbers of the images in the set; they go on to crop_plan.
        images: [B, H, W, 3] uint8, of the same H and W for all batches; an array of its own.
        heights, widths: [B] int64, of the images in the top left corners.
        labels: [B] int64.
    """

    step: int
    epoch: int
    samples: np.ndarray
    images: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    labels: np.ndarray


class _Job(NamedTuple):
    step: int
    epoch: int
    samples: np.ndarray


class Stream:
    """Batches of an image set: `with Stream(...) as stream: for batch in stream: ...`

    Args:
        images: an EncodedSet; or an ImageSet, which needs no decoding and therefore no workers.
        batch: images per step over all ranks.
        seed: of the run; None for the images in their own order, once, with a smaller last batch if need be.
        steps: those to be made, e.g. range(1200, 5000) to resume at step 1200; all of them for seed None.
        workers: decoding processes; 0 decodes in this one, when a batch is asked for.
        prefetch: batches that may be decoded ahead, at least 1.
        canvas: bounds on the images' sides; H and W are its max_side (an ImageSet's own for an ImageSet). By default
            those of Canvas(), and no more room than the images need where their bytes are in memory (decode.fitted).
        on_bad_image: "error" raises when a batch with such an image is due; "skip" decodes all images once at
            the start and leaves bad ones out, so that the order is that of the good ones in every run.
        rank, ranks: which part of each batch to decode.
        task_seconds: a worker that needs longer for some images (a stalled disk) is ended, which ends the stream.

    Attributes:
        samples: images in the set, without those left out.
        skipped: one sentence for each image left out.
        waited_s: seconds that the consumer has waited for batches so far.

    Raises:
        InvalidInput: an argument is out of its range, or, in iterating, an image cannot be decoded.
        WorkerLost: in iterating: a worker process ended.
    """

    def __init__(
        self,
        images: EncodedSet | ImageSet,
        *,
        batch: int,
        seed: int | None,
        steps: range | None = None,
        workers: int = 0,
        prefetch: int = 2,
        canvas: Canvas | None = None,
        on_bad_image: OnBadImage = "error",
        rank: int = 0,
        ranks: int = 1,
        task_seconds: float = 300.0,
    ) -> None:
        check_on_bad_image(on_bad_image)
        require(workers >= 0, "workers", workers, "at least 0")
        require(prefetch >= 1, "prefetch", prefetch, "at least 1 batch")
        require(task_seconds > 0, "task_seconds", task_seconds, "greater than 0")
        _check_steps(steps, seed)
        require(batch >= 1, "batch", batch, "at least 1")
        shard(np.arange(batch), rank, ranks)  # refuses ranks that do not exist
        self.images = images
        self.batch = batch
        self.seed = seed
        self.steps = steps
        self.workers = workers if isinstance(images, EncodedSet) else 0
        self.prefetch = prefetch
        self.canvas = canvas or (fitted(images, Canvas()) if isinstance(images, EncodedSet) else Canvas())
        self.on_bad_image = on_bad_image
        self.rank = rank
        self.ranks = ranks
        self.task_seconds = task_seconds
        self.waited_s = 0.0
        self._pool: Pool | None = None
        self._open: contextlib.ExitStack | None = None
        self._slots_taken = False

    @property
    def samples(self) -> int:
        return len(self.images)

    @property
    def skipped(self) -> tuple[str, ...]:
        return self.images.skipped

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            if self.workers:
                rows = -(-self.batch // self.ranks)
                self._pool = Pool(self.workers, self.prefetch, rows, self.canvas, self.task_seconds)
                stack.callback(self._pool.close)
            if self.on_bad_image == "skip" and isinstance(self.images, EncodedSet):
                every = map(self.images.__getitem__, range(len(self.images)))
                found = self._pool.faults(self.images) if self._pool else faults_of(every, self.canvas)
                self.images = self.images.without({row: says for row, says in enumerate(found) if says is not None})
            if self.seed is not None:
                steps_per_epoch(self.samples, self.batch)  # refuses a batch larger than the set
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._open is not None
        self._open.close()
        self._open = self._pool = None

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(self.steps)

    def batches(self, steps: range | None) -> Generator[Batch, None, None]:
        """The batches of any steps, from the same processes; closing it ends what is decoded ahead."""
        _check_steps(steps, self.seed)
        if self._open is None:
            raise RuntimeError("a Stream is iterated over inside `with`")
        return self._counted(steps)

    def _counted(self, steps: range | None) -> Generator[Batch, None, None]:
        jobs = self._jobs(steps)
        made = self._decoded_ahead(self._pool, jobs) if self._pool else self._decoded_when_asked(jobs)
        with contextlib.closing(made):
            while True:
                asked = time.perf_counter()
                batch = next(made, None)
                self.waited_s += time.perf_counter() - asked
                if batch is None:
                    return
                yield batch

    def _jobs(self, steps: range | None) -> Iterator[_Job]:
        if self.seed is None or steps is None:
            for step, start in enumerate(range(0, self.samples, self.batch)):
                every = np.arange(start, min(start + self.batch, self.samples))
                yield _Job(step, 0, shard(every, self.rank, self.ranks))
            return
        for step in steps:
            epoch, every = batch_samples(self.samples, self.batch, self.seed, step)
            yield _Job(step, epoch, shard(every, self.rank, self.ranks))

    def _finished(self, job: _Job, images: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> Batch:
        return Batch(*job, images, heights, widths, self.images.labels[job.samples])

    def _encoded(self, job: _Job) -> list[Encoded]:
        assert isinstance(self.images, EncodedSet)
        return [self.images[sample] for sample in job.samples]

    def _decoded_when_asked(self, jobs: Iterator[_Job]) -> Generator[Batch, None, None]:
        yield from map(self._decoded_here, jobs)

    def _decoded_here(self, job: _Job) -> Batch:
        if isinstance(self.images, ImageSet):
            chosen = (array[job.samples] for array in (self.images.images, self.images.heights, self.images.widths))
            return self._finished(job, *chosen)
        images = np.zeros((len(job.samples), self.canvas.max_side, self.canvas.max_side, 3), dtype=np.uint8)
        return self._finished(job, images, *decode_into(images, self._encoded(job), self.canvas).T)

    def _decoded_ahead(self, pool: Pool, jobs: Iterator[_Job]) -> Generator[Batch, None, None]:
        if self._slots_taken:
            raise RuntimeError("a Stream with workers is iterated over once at a time")
        self._slots_taken = True
        running: deque[tuple[_Job, int, Task]] = deque()

        def start(slot: int) -> None:
            job = next(jobs, None)
            if job is not None:
                running.append((job, slot, pool.decode(slot, self._encoded(job))))

        try:
            for slot in range(self.prefetch):
                start(slot)
            while running:
                job, slot, task = running[0]
                sizes = task.result()
                running.popleft()
                # A copy: the slot is written again while the consumer may still be reading.
                images = pool.slots[slot, : len(job.samples)].copy()
                start(slot)
                yield self._finished(job, images, *sizes.T)
        finally:
            # The next iteration writes into the same slots, so this one's workers must be done with them.
            for _, _, task in running:
                task.abandon()
            self._slots_taken = False


def without_bad(images: EncodedSet, *, canvas: Canvas | None = None, workers: int = 0) -> EncodedSet:
    """The images that can be decoded, in their order; `skipped` has a sentence for each of the others.

    Every image is decoded once.

    Raises:
        InvalidInput: none can be decoded.
        WorkerLost: a worker process ended.
    """
    with Stream(images, batch=1, seed=None, workers=workers, prefetch=1, canvas=canvas, on_bad_image="skip") as stream:
        assert isinstance(stream.images, EncodedSet)
        return stream.images


def _check_steps(steps: range | None, seed: int | None) -> None:
    require((steps is None) == (seed is None), "steps", steps, "a range of steps with a seed, None without one")
    require(steps is None or (steps.start >= 0 and steps.step >= 1), "steps", steps, "a range upwards from 0 or later")
