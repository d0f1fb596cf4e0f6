"""One fixture gives the implementation under test; which one, where and how precise comes from the command line.

    pytest tests/contract --implementation torch [--device gpu] [--precision tf32]

A named framework that cannot be imported is an error. Tests of parts that an implementation does not fulfil, of real
images without --data-dir, and of pages without a Chromium are deselected, and pytest prints how many.
"""

from __future__ import annotations

import functools
import os
import shutil

import pytest
from hypothesis import settings
from tests import stand_in

from swav_spec import registry
from swav_spec.config import PRECISIONS, Execution

# The same examples every time, and no time limit for one, which a busy machine would break; HYPOTHESIS_PROFILE=dev
# looks elsewhere at each run, thorough longer.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("dev", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

#: Precisions that the contract tests run in when none is asked for.
DEFAULT_PRECISIONS = {"numpy": ("float64",)}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def pytest_addoption(parser):
    group = parser.getgroup("swav-bench")
    group.addoption("--implementation", default="numpy", help="name in the registry, or package.module:Class")
    group.addoption("--device", default="cpu", choices=("cpu", "gpu"))
    group.addoption("--precision", choices=PRECISIONS, help="default: float64 and float32 (numpy: float64)")
    group.addoption("--mode", default="default", help="execution mode, e.g. eager, compile, jit, graph, xla")
    group.addoption("--figures", help="folder that tests/parity writes its pages of figures to")
    group.addoption("--data-dir", help="folder with cifar10-*.parquet and flowers-*.parquet")


def pytest_configure(config):
    if config.getoption("implementation") == "lightly":
        patch = pytest.MonkeyPatch()
        config.add_cleanup(patch.undo)
        stand_in.for_torchvision(patch)


def pytest_generate_tests(metafunc):
    if "precision" in metafunc.fixturenames:
        name = metafunc.config.getoption("implementation")
        asked = metafunc.config.getoption("precision")
        precisions = (asked,) if asked else DEFAULT_PRECISIONS.get(name, ("float64", "float32"))
        metafunc.parametrize("precision", precisions, scope="session")


def pytest_collection_modifyitems(config, items):
    fulfilled = set(_make(config)("float64" if config.getoption("device") == "cpu" else "float32").fulfils)
    kept, dropped = [], []
    for item in items:
        needs = {part for marker in item.iter_markers("needs") for part in marker.args}
        missing_data = item.get_closest_marker("needs_data") and not config.getoption("data_dir")
        missing_browser = item.get_closest_marker("browser") and CHROMIUM is None
        (dropped if missing_data or missing_browser or needs - fulfilled else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def _make(config):
    @functools.cache
    def make(precision):
        execution = Execution(config.getoption("device"), precision, config.getoption("mode"))
        return registry.load(config.getoption("implementation"), execution)

    return make


@pytest.fixture(scope="session")
def chromium():
    """The browser's path; tests marked `browser` run only where there is one."""
    return CHROMIUM


@pytest.fixture(scope="session")
def make_implementation(request):
    """precision -> the implementation under test, made once."""
    return _make(request.config)


@pytest.fixture(scope="session")
def implementation(make_implementation, precision):
    """The implementation under test in the precision of this run of the test."""
    return make_implementation(precision)
