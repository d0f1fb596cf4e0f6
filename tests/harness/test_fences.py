"""Where a run waits for its device."""

from __future__ import annotations

import itertools

from swav_bench.fences import GROWTH, SECONDS, Fences, is_multiple, next_multiple


def test_at_multiples_whatever_the_start_and_at_the_end():
    assert list(Fences(0, 23, every=5)) == [5, 10, 15, 20, 23]
    assert list(Fences(7, 23, every=5)) == [10, 15, 20, 23]
    assert list(Fences(23, 23, every=5)) == []


def test_marks_are_never_passed_over():
    assert list(Fences(0, 30, every=10, marks=(7.5, 12.0))) == [8, 10, 12, 15, 20, 22, 24, 30]
    made = Fences(0, 100, marks=(33.0,))
    found = []
    for at in made:
        found.append(at)
        made.told(1, 1e-6)
    assert {33, 66, 99, 100} <= set(found)


def test_as_many_steps_as_fit_into_the_time_growing_slowly():
    made, step_s, sizes, before = Fences(0, 10_000), SECONDS / 100, [], 0
    for at in itertools.islice(made, 8):
        sizes.append(at - before)
        made.told(at - before, (at - before) * step_s)
        before = at
    assert sizes == [1, GROWTH, GROWTH**2, GROWTH**3, 100, 100, 100, 100]
    made.told(100, 100 * SECONDS)
    assert next(iter(made)) == 1


def test_multiples_of_parts_of_steps():
    assert [next_multiple(step, 2.5) for step in range(8)] == [2, 2, 5, 5, 5, 8, 8, 8]
    assert [step for step in range(12) if is_multiple(step, 2.5)] == [2, 5, 8, 10]
    assert not is_multiple(5, 0)
