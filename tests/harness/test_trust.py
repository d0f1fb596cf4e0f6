"""The committed runs of results/trust-cpu: two of the same program, and one whose steps take a tenth longer.

Twenty real processes of each, taken in turn, on two threads of a shared processor: the steps of one process differ
from those of the next by several per cent. Comparisons are of some of them a side, from each one on, round and round.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from swav_bench import compare, records

RUNS = Path(__file__).parents[2] / "results" / "trust-cpu"
PROCESSES = 20
#: Processes a side that find a tenth in such noise, and those that are too few.
ENOUGH, TOO_FEW = (6, 8, 10, 15), (3, 5)


@pytest.fixture(scope="module")
def runs():
    loaded = {name: records.load(RUNS / name) for name in ("same-1", "same-2", "slower")}
    for name, results in loaded.items():
        assert [record["status"] for record in results.records] == ["ok"] * PROCESSES, name
        assert {record["cell"]["implementation"] for record in results.records} == {"slowed:Torch"}
    return loaded


def comparisons(before, after, side):
    """What is flagged in each of twenty comparisons of `side` processes with as many others."""
    for first in range(PROCESSES):
        chosen = [
            records.Results(run.name, run.plan, [run.records[(first + n) % PROCESSES] for n in range(side)])
            for run in (before, after)
        ]
        yield [change for change in compare.compare(*chosen).changes if change.verdict != "same"]


def found(before, after, side):
    """In how many of them the step is flagged as slower."""
    flagged = comparisons(before, after, side)
    return sum(any((c.figure, c.word) == ("step, s", "slower") for c in changes) for changes in flagged)


@pytest.mark.parametrize("side", [*TOO_FEW, *ENOUGH, PROCESSES])
def test_two_runs_of_the_same_program_are_told_apart_in_no_more_than_one_of_twenty_comparisons(runs, side):
    flagged = list(comparisons(runs["same-1"], runs["same-2"], side))
    assert sum(bool(changes) for changes in flagged) <= 1, [changes for changes in flagged if changes]


@pytest.mark.parametrize("same", ["same-1", "same-2"])
def test_steps_a_tenth_longer_are_found_in_twenty_of_twenty_comparisons(runs, same):
    assert {side: found(runs[same], runs["slower"], side) for side in ENOUGH} == dict.fromkeys(ENOUGH, PROCESSES)
    assert found(runs["slower"], runs[same], max(ENOUGH)) == 0


@pytest.mark.parametrize("same", ["same-1", "same-2"])
def test_few_processes_are_not_sure_of_it(runs, same):
    assert all(0 < found(runs[same], runs["slower"], side) < PROCESSES for side in TOO_FEW)
