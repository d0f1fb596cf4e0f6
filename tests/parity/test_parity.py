"""The same run in three frameworks, each in a process of its own: losses, gradients and weights, pair by pair.

A framework that cannot be imported is an error. The page of figures is printed at the end, and written to
steps.txt in the folder of --figures.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.parity.recipes import NETWORKS, PRECISIONS, STEPS, config_of
from tests.parity.rule import NUDGES, QUANTITIES, bounds, differences, largest, spread

from swav_spec.testing.golden import arrays_of
from swav_spec.tolerance import FLOAT64_BOUND, error

HERE = Path(__file__).parent
FRAMEWORKS = ("torch", "jax", "tensorflow")
PAIRS = tuple(itertools.combinations(FRAMEWORKS, 2))
#: Runs the nudged trajectories: it compiles nothing, so many short runs are quick in it.
WITNESS = "torch"
SECONDS = 1500

pytestmark = pytest.mark.timeout(2 * SECONDS)  # one fixture trains everything; two minutes on two free cores


def train(framework, folder):
    """One child process; its files lie in `folder` afterwards."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.parity.trajectory", framework, str(folder)]
    command += ["--nudges", str(NUDGES)] if framework == WITNESS else []
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=SECONDS, env=environment, cwd=HERE.parents[1]
    )


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """(framework, recipe, precision) -> everything that run computed; (WITNESS, recipe) -> its nudged runs."""
    folders = {framework: tmp_path_factory.mktemp(framework) for framework in FRAMEWORKS}
    with ThreadPoolExecutor(2) as pool:  # small machines have two cores
        children = dict(zip(FRAMEWORKS, pool.map(train, FRAMEWORKS, folders.values()), strict=True))
    for framework, child in children.items():
        if child.returncode != 0:
            pytest.fail(f"{framework} did not finish:\n{child.stderr[-4000:]}", pytrace=False)
    found = {
        (framework, recipe, precision): arrays_of(folders[framework], f"{recipe}-{precision}")
        for framework, recipe, precision in itertools.product(FRAMEWORKS, NETWORKS, PRECISIONS)
    }
    for recipe in NETWORKS:
        found[WITNESS, recipe] = [arrays_of(folders[WITNESS], f"{recipe}-nudge{number}") for number in range(NUDGES)]
    return found


@pytest.fixture(scope="session")
def page(request):
    """Lines of the page of figures, in the order of the tests; printed and kept when all are done."""
    lines = ["Largest difference between two frameworks, error = max|a - b| / max|b|, and the largest allowed", ""]
    yield lines
    text = "\n".join(lines) + "\n"
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        reporter.write_line("")
        reporter.write(text)
    folder = request.config.getoption("--figures")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "steps.txt").write_text(text, encoding="utf-8")


def figures(recipe, precision, found, allowed):
    """A table: a row for each step, a column for each quantity."""
    rows = [f"{recipe}, {precision}", "step  " + "  ".join(f"{quantity:>19}" for quantity in QUANTITIES)]
    for step in range(STEPS):
        cells = [f"{found[q, step][0]:8.1e} ({allowed[q][step]:7.1e})" for q in QUANTITIES]
        rows.append(f"{step:4d}  " + "  ".join(f"{cell:>19}" for cell in cells))
    for quantity in QUANTITIES:
        value, where = max(found[quantity, step] for step in range(STEPS))
        rows.append(f"      largest of {quantity}: {value:.2e} {where}")
    return [*rows, ""]


@pytest.mark.parametrize("rounding", PRECISIONS)
@pytest.mark.parametrize("recipe", NETWORKS)
def test_every_step_agrees(runs, page, recipe, rounding):
    spreads = None
    if rounding != "float64":
        spreads = spread(runs[WITNESS, recipe, "float64"], runs[WITNESS, recipe], STEPS)
    allowed = bounds(rounding, spreads, STEPS)
    found, failures = {}, []
    for step in range(STEPS):
        for quantity in QUANTITIES:
            candidates = []
            for one, other in PAIRS:
                errors = differences(runs[one, recipe, rounding], runs[other, recipe, rounding], step)[quantity]
                value, name = largest(errors)
                candidates.append((value, f"{one} - {other} {name}"))
            found[quantity, step] = max(candidates)
            value, where = found[quantity, step]
            if not value <= allowed[quantity][step]:
                failures.append(f"step {step}, {where}: {value:.3g}, allowed {allowed[quantity][step]:.3g}")
    page.extend(figures(recipe, rounding, found, allowed))
    assert not failures, "\n".join([f"{recipe}, {rounding}:", *failures[:12], f"{len(failures)} in all"])


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("recipe", NETWORKS)
def test_the_run_has_everything_in_it(runs, recipe, framework):
    """Parity of runs in which nothing happens would say nothing."""
    record, config = runs[framework, recipe, "float64"], config_of(recipe)
    prototypes = [record[f"{step}/state/model/prototypes.weight"] for step in range(STEPS)]
    moved = [error(after, before) > FLOAT64_BOUND for before, after in itertools.pairwise(prototypes)]
    assert moved == [step >= config.freeze_steps for step in range(1, STEPS)]
    buffers = [f"{step}/state/momentum/prototypes.weight" in record for step in range(STEPS)]
    assert buffers == [step >= config.freeze_steps for step in range(STEPS)]
    counts = [int(record[f"{step}/state/queue_count"]) for step in range(STEPS)]
    assert counts == [max(0, step + 1 - config.queue_start) * config.batch for step in range(STEPS)]
    assert counts[-2] > config.queue_rows
    assert np.isfinite([record[f"{step}/loss"] for step in range(STEPS)]).all()
    assert len({float(record[f"{step}/loss"]) for step in range(STEPS)}) == STEPS
