"""Processes that decode images into shared memory; stream.py decides what and when.

They are started by spawn, so that nothing of a framework's threads or GPU is inherited, and none can outlive its
work: a task that takes too long ends its worker, a worker whose parent is gone ends itself. The memory has no name,
so it is given back when the last process that has it ends, even if all of them are killed at once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, reduction
from typing import Any, NamedTuple

import numpy as np
import psutil

from swav_data.canvas import Canvas, place
from swav_data.decode import decode
from swav_data.encoded import Encoded, EncodedSet
from swav_spec.errors import InvalidInput

#: Images per task, at most: few enough to spread a batch over the workers, enough to outweigh the messages.
TASK_IMAGES = 32


class WorkerLost(RuntimeError):
    """A decoding process ended without an answer: killed, out of memory, or too long over a task."""


class SharedBytes:
    """Memory of `size` bytes, shared with the processes that are given it when they are started.

    Raises:
        OSError: there is not as much.
    """

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        self.size = size
        self._descriptor = _reserved(size) if descriptor is None else descriptor
        self.map = mmap.mmap(self._descriptor, size)

    def __reduce__(self) -> tuple[Callable[..., SharedBytes], tuple[int, Any]]:
        return _received, (self.size, reduction.DupFd(self._descriptor))

    def close(self) -> None:
        """Gives the memory back, as soon as no array lies in it any more: one may be left in an exception's frames."""
        os.close(self._descriptor)
        del self.map


def _reserved(size: int) -> int:
    """The descriptor of a file in memory (of a nameless temporary one where the system has no such files)."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("batches")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        # Without room of its own, a write would end the process by a signal once memory has run out.
        os.posix_fallocate(descriptor, 0, size) if hasattr(os, "posix_fallocate") else os.ftruncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _received(size: int, descriptor: Any) -> SharedBytes:
    return SharedBytes(size, descriptor.detach())


class Task:
    """A batch that workers are decoding into a slot."""

    def __init__(self, parts: list[Future]) -> None:
        self._parts = parts

    def result(self) -> np.ndarray:
        """[B, 2] int64 heights and widths, when all is decoded.

        Raises:
            InvalidInput: an image cannot be decoded; the first in the batch's order.
            WorkerLost: a worker ended.
        """
        with _worker_loss_told():
            return np.concatenate([np.zeros((0, 2), dtype=np.int64), *(part.result() for part in self._parts)])

    def abandon(self) -> None:
        """Returns when no worker writes for this task any more."""
        for part in self._parts:
            part.cancel()
        for part in self._parts:
            if not part.cancelled():
                part.exception()


class Pool:
    """`workers` processes and `slots` [S, rows, side, side, 3] uint8 of shared memory that they write into.

    Args:
        workers: at least 1.
        slots: S, batches that are decoded at once.
        rows: images in a batch, at most.
        canvas: bounds on the images' sides; side is its max_side.
        task_seconds: a worker that needs longer for a task is ended.

    Raises:
        InvalidInput: there is not as much memory.
    """

    def __init__(self, workers: int, slots: int, rows: int, canvas: Canvas, task_seconds: float) -> None:
        shape = (slots, rows, canvas.max_side, canvas.max_side, 3)
        size = int(np.prod(shape))
        if (free := psutil.virtual_memory().available) < size:
            raise InvalidInput(_too_little(shape, size, f"{free / 2**20:.0f} are free"))
        self._canvas = canvas
        self._workers = workers
        try:
            self._memory = SharedBytes(size)
        except OSError as error:
            raise InvalidInput(_too_little(shape, size, error.strerror or str(error))) from error
        self.slots = np.ndarray(shape, dtype=np.uint8, buffer=self._memory.map)
        self._executor = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(self._memory, shape, canvas, task_seconds),
        )
        for _ in range(workers):  # they start now, while the caller has other things to do
            self._executor.submit(_faults_task, [])

    def decode(self, slot: int, images: list[Encoded]) -> Task:
        """Asks for these images in the first rows of a slot.

        Raises:
            WorkerLost: a worker has ended.
        """
        size = min(TASK_IMAGES, -(-len(images) // (2 * self._workers))) or 1
        with _worker_loss_told():
            starts = range(0, len(images), size)
            return Task([self._executor.submit(_decode_task, slot, at, images[at : at + size]) for at in starts])

    def faults(self, images: EncodedSet) -> Iterator[str | None]:
        """For each image of a set, why it cannot be decoded, or None.

        Raises:
            WorkerLost: a worker ended.
        """
        waiting: deque[Future] = deque()
        with _worker_loss_told():
            for start in range(0, len(images), TASK_IMAGES):
                part = [images[row] for row in range(start, min(start + TASK_IMAGES, len(images)))]
                waiting.append(self._executor.submit(_faults_task, part))
                if len(waiting) > 2 * self._workers:  # not all at once: their bytes may travel with them
                    yield from waiting.popleft().result()
            for future in waiting:
                yield from future.result()

    def close(self) -> None:
        """Ends the workers, and gives the memory back."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        del self.slots  # a view keeps the memory from being closed
        self._memory.close()


def _too_little(shape: tuple[int, ...], size: int, why: str) -> str:
    slots, rows, side = shape[:3]
    return (
        f"{slots} batches of {rows} images of up to {side} x {side} pixels need {size / 2**20:.0f} MiB of memory "
        f"({why}): use a smaller batch, prefetch or max_side, or no workers"
    )


@contextlib.contextmanager
def _worker_loss_told() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise WorkerLost(
            "a process that decodes images has ended: it was killed (was no memory left?), was too long over its "
            'images, or could not start (is the program\'s main module guarded by if __name__ == "__main__"?)'
        ) from error


def decode_into(canvases: np.ndarray, images: Iterable[Encoded], canvas: Canvas) -> np.ndarray:
    """Decodes N images into canvases [N, H, W, 3] uint8; returns their heights and widths, [N, 2] int64.

    Raises:
        InvalidInput: an image cannot be decoded.
    """
    return place([decode(image, canvas) for image in images], canvases)


def faults_of(images: Iterable[Encoded], canvas: Canvas) -> list[str | None]:
    """For each image, why it cannot be decoded, or None."""

    def fault(image: Encoded) -> str | None:
        try:
            decode(image, canvas)
        except InvalidInput as error:
            return str(error)
        return None

    return [fault(image) for image in images]


# From here on: in the workers.


class _Worker(NamedTuple):
    memory: SharedBytes
    slots: np.ndarray
    canvas: Canvas
    task_seconds: float


_worker: _Worker  # of this process; set when it starts


def _start_worker(memory: SharedBytes, shape: tuple[int, ...], canvas: Canvas, task_seconds: float) -> None:
    global _worker  # noqa: PLW0603 - what an initializer of a process pool is for
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the pool
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = _Worker(memory, np.ndarray(shape, dtype=np.uint8, buffer=memory.map), canvas, task_seconds)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    # A thread of C's, which works even while a decoder holds Python's lock; it also says where the time went.
    faulthandler.dump_traceback_later(_worker.task_seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _decode_task(slot: int, start: int, images: list[Encoded]) -> np.ndarray:
    with _time_limit():
        return decode_into(_worker.slots[slot, start : start + len(images)], images, _worker.canvas)


def _faults_task(images: list[Encoded]) -> list[str | None]:
    with _time_limit():
        return faults_of(images, _worker.canvas)
