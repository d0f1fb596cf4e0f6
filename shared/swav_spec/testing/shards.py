"""Several shards in lockstep on one machine: a thread each, reductions that wait for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")
PATIENCE_SECONDS = 60.0


class Lockstep:
    """Reductions over `shards` threads, on an implementation's arrays.

    Args:
        implementation: of Device.
        shards: how many threads call each reduction.
    """

    def __init__(self, implementation: Any, shards: int) -> None:
        self._implementation = implementation
        self._parts: dict[int, np.ndarray] = {}
        # A shard that fails or never calls must not hang the others.
        self._barrier = threading.Barrier(shards, timeout=PATIENCE_SECONDS)
        self._lock = threading.Lock()

    def all_max(self, array: Any) -> Any:
        """Elementwise maximum over the shards."""
        return self._reduce(array, np.maximum.reduce)

    def all_sum(self, array: Any) -> Any:
        """Elementwise sum over the shards."""
        return self._reduce(array, np.add.reduce)

    def _reduce(self, array: Any, reduction: Callable[[list[np.ndarray]], np.ndarray]) -> Any:
        with self._lock:
            self._parts[threading.get_ident()] = self._implementation.to_host(array)
        self._barrier.wait()
        # In the order of the threads' numbers, so that every shard gets the same sum.
        total = reduction([self._parts[number] for number in sorted(self._parts)])
        self._barrier.wait()
        return self._implementation.to_device(np.asarray(total, dtype=self._parts[threading.get_ident()].dtype))

    def run(self, function: Callable[..., Result], shards: list[Any]) -> list[Result]:
        """`function(shard, all_max, all_sum)` for each shard at once; results in order."""

        def one(shard: Any) -> Result:
            try:
                return function(shard, self.all_max, self.all_sum)
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(len(shards)) as pool:
            futures = [pool.submit(one, shard) for shard in shards]
            errors = [error for future in futures if (error := future.exception()) is not None]
            # The first cause, not the broken barrier that it left to the others.
            for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
                raise error
            return [future.result() for future in futures]


def sinkhorn_in_shards(implementation: Any, shards: list[np.ndarray], **arguments: Any) -> list[np.ndarray]:
    """Codes of each shard's rows, from an assignment over all shards together."""

    def one(shard: np.ndarray, all_max: Callable, all_sum: Callable) -> np.ndarray:
        scores = implementation.to_device(shard)
        return implementation.to_host(implementation.sinkhorn(scores, all_max=all_max, all_sum=all_sum, **arguments))

    return Lockstep(implementation, len(shards)).run(one, shards)
