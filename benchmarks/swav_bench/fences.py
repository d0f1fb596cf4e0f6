"""Where a training run waits for its device: seldom enough not to hold it up, often enough to be watched."""

from __future__ import annotations

import math
from collections.abc import Iterator

#: About so many seconds lie between two fences, where no number of steps was asked for.
SECONDS = 1.5
#: The number of steps between fences grows at most by this factor at a time: first steps are slow, they compile.
GROWTH = 4


class Fences:
    """Numbers of steps done, from `start` to `stop`, each found when it is needed.

    Args:
        start, stop: steps done before the first and at the last fence.
        every: steps between fences, at multiples of it; 0 for about SECONDS of them, as `told` says how long they take.
        marks: a fence lies at each multiple of these, rounded to whole steps; numbers greater than 0.
    """

    def __init__(self, start: int, stop: int, *, every: int = 0, marks: tuple[float, ...] = ()) -> None:
        self.start, self.stop, self._every, self._marks = start, stop, every, marks
        self._size = 1

    def told(self, steps: int, wall_s: float) -> None:
        """The last `steps` steps took `wall_s` seconds."""
        fitting = math.floor(SECONDS * steps / wall_s) if wall_s > 0 else GROWTH * self._size
        self._size = max(1, min(fitting, GROWTH * self._size))

    def __iter__(self) -> Iterator[int]:
        at = self.start
        while at < self.stop:
            after = next_multiple(at, self._every) if self._every else at + self._size
            at = min(self.stop, after, *(next_multiple(at, mark) for mark in self._marks))
            yield at


def next_multiple(step: int, period: float) -> int:
    """The first multiple of `period`, rounded, that is greater than `step`."""
    count = math.floor(step / period)
    while round(count * period) <= step:
        count += 1
    return round(count * period)


def is_multiple(step: int, period: float) -> bool:
    """Whether `step` is a multiple of `period`, rounded; never for a period of 0."""
    return period > 0 and step > 0 and next_multiple(step - 1, period) == step
