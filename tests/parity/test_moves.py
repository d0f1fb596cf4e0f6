"""A checkpoint that one framework has written goes on in the others, in all six directions, as if nothing had happened.

Each framework writes in a process of its own and goes on in another. The moved run is held against the writer's and
the reader's own whole runs, by the bounds of rule.py.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.parity.moves import FRAMEWORKS, MOVED_AT
from tests.parity.recipes import PRECISIONS, STEPS
from tests.parity.rule import NUDGES, bounds, spread

from swav_bench import checkpoint
from swav_spec.testing.golden import arrays_of
from swav_spec.tolerance import error

HERE = Path(__file__).parent
DIRECTIONS = tuple(itertools.permutations(FRAMEWORKS, 2))
#: Runs the nudged trajectories: it compiles nothing, so many short runs are quick in it.
WITNESS = "torch"
SECONDS = 1500
#: Beginning of a name in a record -> the quantity of rule.py whose bound holds for it.
QUANTITIES = {"loss": "loss", "state/model/": "weights", "state/momentum/": "momentum", "state/queue": "queue"}
QUANTITIES |= {"state/step": "queue"}

pytestmark = pytest.mark.timeout(3 * SECONDS)  # one fixture trains everything


def started(task, framework, folder):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.parity.moves", task, framework, str(folder)]
    command += ["--nudges", str(NUDGES)] if (task, framework) == ("write", WITNESS) else []
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=SECONDS, env=environment, cwd=HERE.parents[1]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Filled by all processes."""
    made = tmp_path_factory.mktemp("moves")
    with ThreadPoolExecutor(2) as pool:  # small machines have two cores
        for task in ("write", "continue"):
            children = pool.map(lambda framework, task=task: started(task, framework, made), FRAMEWORKS)
            for framework, child in zip(FRAMEWORKS, children, strict=True):
                if child.returncode != 0:
                    pytest.fail(f"{framework} did not {task}:\n{child.stderr[-4000:]}", pytrace=False)
    return made


@pytest.fixture(scope="module")
def allowed(folder):
    """Precision -> quantity -> [steps] bounds."""
    nudged = [arrays_of(folder, f"nudge{number}") for number in range(NUDGES)]
    spreads = spread(arrays_of(folder, "straight"), nudged, STEPS)
    return {precision: bounds(precision, spreads, STEPS) for precision in PRECISIONS}


def quantity(name):
    return next(found for start, found in QUANTITIES.items() if name.startswith(start))


@pytest.mark.parametrize("rounding", PRECISIONS)
@pytest.mark.parametrize(("writer", "reader"), DIRECTIONS)
def test_a_moved_run_goes_on_as_if_nothing_had_happened(folder, allowed, writer, reader, rounding):
    moved = arrays_of(folder, f"{writer}-{reader}-{rounding}")
    assert {int(name.partition("/")[0]) for name in moved} == set(range(MOVED_AT, STEPS))
    failures, compared = [], set()
    for whole in (writer, reader):
        straight = arrays_of(folder, f"{whole}-{whole}-{rounding}")
        after = {name: value for name, value in straight.items() if int(name.partition("/")[0]) >= MOVED_AT}
        assert set(moved) == set(after)
        for name, value in after.items():
            step, _, what = name.partition("/")
            compared.add(quantity(what))
            found, bound = error(moved[name], value), allowed[rounding][quantity(what)][int(step)]
            if not found <= bound:
                failures.append(f"{name}: {found:.3g} from {whole}'s own run, allowed {bound:.3g}")
    assert compared == set(QUANTITIES.values())
    assert not failures, "\n".join([f"{writer} to {reader}, {rounding}:", *failures[:12], f"{len(failures)} in all"])


@pytest.mark.parametrize(("writer", "reader"), DIRECTIONS)
def test_the_move_itself_matters(folder, writer, reader):
    """Training on changes the weights by far more than any bound: staying at the checkpoint would not pass."""
    start = checkpoint.latest(folder / f"{writer}-float64").arrays["model/prototypes.weight"]
    end = arrays_of(folder, f"{writer}-{reader}-float64")[f"{STEPS - 1}/state/model/prototypes.weight"]
    assert error(end, start) > error(end, end) + bounds("float64", {}, STEPS)["weights"].max()
