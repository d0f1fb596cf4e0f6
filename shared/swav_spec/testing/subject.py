"""The implementation under test as properties see it: NumPy arrays in, NumPy arrays out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from swav_spec.config import Precision
from swav_spec.testing.assertions import dtype_of, maths_precision


class Subject:
    """Wraps an implementation, whole or partial.

    A stranger's class without `to_device` and `to_host` gets and gives NumPy arrays; without an `execution` it
    is judged in the precision given here.

    Attributes:
        implementation: what is judged.
        precision: of its network.
        maths: precision of Sinkhorn, loss, queue and optimiser: float32 where the network has less.
        dtype: NumPy type of the inputs of its maths.
        kept: what properties keep of it for each other, such as runs.
    """

    def __init__(self, implementation: Any, precision: Precision = "float64") -> None:
        self.implementation = implementation
        execution = getattr(implementation, "execution", None)
        self.precision: Precision = execution.precision if execution is not None else precision
        self.maths = maths_precision(self.precision)
        self.dtype = dtype_of(self.precision)
        self.kept: dict[Any, Any] = {}
        self._in = getattr(implementation, "to_device", _itself)
        self._out = getattr(implementation, "to_host", np.asarray)

    def has(self, need: str) -> bool:
        """Whether the implementation has a function, "sinkhorn", that takes a keyword, "sinkhorn:keep"."""
        name, _, keyword = need.partition(":")
        function = getattr(self.implementation, name, None)
        if not callable(function):
            return False
        if not keyword:
            return True
        parameters = inspect.signature(function).parameters
        return keyword in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def to_device(self, array: np.ndarray) -> Any:
        """The implementation's own array, in the precision of its maths."""
        return self._in(np.asarray(array, dtype=self.dtype))

    def to_host(self, array: Any) -> np.ndarray:
        """A NumPy array of what the implementation gave."""
        return np.asarray(self._out(array))

    def normalize_rows(self, array: np.ndarray) -> np.ndarray:
        return self.to_host(self.implementation.normalize_rows(self.to_device(array)))

    def sinkhorn(self, scores: np.ndarray, **settings: Any) -> np.ndarray:
        return self.to_host(self.implementation.sinkhorn(self.to_device(scores), **settings))

    def sinkhorn_in_shards(self, shards: Sequence[np.ndarray], **settings: Any) -> list[np.ndarray]:
        """Codes of each shard's rows, from one assignment over the rows of all shards together."""

        def run(shard: np.ndarray, all_max: Callable, all_sum: Callable) -> np.ndarray:
            return self.sinkhorn(shard, all_max=all_max, all_sum=all_sum, **settings)

        return all_reduced(shards, run, self)

    def sinkhorn_as_given(self, scores: np.ndarray, **settings: Any) -> np.ndarray:
        """`sinkhorn` of scores in their own dtype."""
        return self.to_host(self.implementation.sinkhorn(self._in(scores), **settings))

    def swapped_loss(
        self, scores: np.ndarray, codes: np.ndarray, *, temperature: float, assigned: tuple[int, ...]
    ) -> tuple[float, np.ndarray]:
        loss, gradient = self.implementation.swapped_loss(
            self.to_device(scores), self.to_device(codes), temperature=temperature, assigned=assigned
        )
        return float(self.to_host(loss)), self.to_host(gradient)

    def queue_read(self, queue: np.ndarray, count: int, prototypes: np.ndarray) -> np.ndarray | None:
        scores = self.implementation.queue_read(self.to_device(queue), count, self.to_device(prototypes))
        return None if scores is None else self.to_host(scores)

    def queue_push(self, queue: np.ndarray, count: int, embeddings: np.ndarray) -> tuple[np.ndarray, int]:
        new, count = self.implementation.queue_push(self.to_device(queue), count, self.to_device(embeddings))
        return self.to_host(new), int(count)

    def larc_sgd(
        self,
        params: Mapping[str, np.ndarray],
        grads: Mapping[str, np.ndarray | None],
        momentum: Mapping[str, np.ndarray | None],
        **settings: float,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray | None]]:
        new, buffers = self.implementation.larc_sgd(
            *(
                {name: None if t is None else self.to_device(t) for name, t in s.items()}
                for s in (params, grads, momentum)
            ),
            **settings,
        )
        return (
            {name: self.to_host(value) for name, value in new.items()},
            {name: None if value is None else self.to_host(value) for name, value in buffers.items()},
        )

    def views(self, images: np.ndarray, plan: Any, config: Any) -> list[np.ndarray]:
        return [self.to_host(group) for group in self.implementation.views(self._in(images), plan, config)]

    def images(self, images: np.ndarray) -> Any:
        """Bytes on the device."""
        return self._in(images)

    def device_views(self, views: Sequence[np.ndarray]) -> list[Any]:
        """Ready-made views on the device."""
        return [self.to_device(group) for group in views]


def all_reduced(
    shards: Sequence[np.ndarray], run: Callable[[np.ndarray, Callable, Callable], np.ndarray], subject: Subject
) -> list[np.ndarray]:
    """Results of `run(shard, all_max, all_sum)` on every shard, as if the shards ran side by side.

    A shard's work is a function of the reductions it has seen, so it can be replayed: each round runs every
    shard up to its first reduction that is not known yet and combines what they bring to it.
    """
    known: list[np.ndarray] = []
    while True:
        brought: list[tuple[str, np.ndarray]] = []
        results = []
        for shard in shards:
            replay = _Replay(known, subject)
            try:
                results.append(run(shard, replay.reduction("max"), replay.reduction("sum")))
            except _Waits as waits:
                brought.append((waits.kind, waits.value))
        if not brought:
            return results
        assert len(brought) == len(shards), "shards must ask for the same number of reductions"
        kinds = {kind for kind, _ in brought}
        assert len(kinds) == 1, "shards must ask for the same reductions in the same order"
        combine = np.max if kinds == {"max"} else np.sum
        known.append(combine([value for _, value in brought], axis=0))


class _Waits(Exception):
    """A shard has come to a reduction that the others have not reached."""

    def __init__(self, kind: str, value: np.ndarray) -> None:
        super().__init__(kind)
        self.kind, self.value = kind, value


class _Replay:
    def __init__(self, known: list[np.ndarray], subject: Subject) -> None:
        self.known, self.subject, self.at = known, subject, 0

    def reduction(self, kind: str) -> Callable[[Any], Any]:
        def reduce(array: Any) -> Any:
            if self.at == len(self.known):
                raise _Waits(kind, self.subject.to_host(array))
            self.at += 1
            value = self.known[self.at - 1]
            return self.subject.to_device(value)

        return reduce


def _itself(array: np.ndarray) -> np.ndarray:
    return array
