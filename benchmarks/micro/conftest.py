"""Benchmarks of single operations over the contract, by pytest-benchmark.

    pytest benchmarks/micro --implementation torch [--device gpu] [--precision bfloat16] [--benchmark-save NAME]

Every timed call ends in a fence, so that nothing is left running on the device when the clock stops. Sizes
are small on a CPU and those of the published recipes on a GPU; names of the cases carry them, so
`pytest-benchmark compare` never compares different work.
"""

from __future__ import annotations

import numpy as np
import pytest

from swav_spec import registry
from swav_spec.config import PRECISIONS, Execution


def pytest_addoption(parser):
    group = parser.getgroup("swav-bench")
    group.addoption("--implementation", default="numpy", help="name in the registry, or package.module:Class")
    group.addoption("--device", default="cpu", choices=("cpu", "gpu"))
    group.addoption("--precision", default="float32", choices=PRECISIONS)
    group.addoption("--mode", default="default", help="execution mode, e.g. eager, compile, jit, graph, xla")


def pytest_generate_tests(metafunc):
    """`size` in a test's arguments: the module's SIZES for this device."""
    if "size" in metafunc.fixturenames:
        sizes = metafunc.module.SIZES[metafunc.config.getoption("device")]
        metafunc.parametrize("size", sizes, ids=lambda size: "x".join(map(str, np.atleast_1d(size))))


def pytest_collection_modifyitems(config, items):
    fulfilled = set(_load(config).fulfils)
    dropped = [item for item in items if not {m.args[0] for m in item.iter_markers("needs")} <= fulfilled]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def pytest_benchmark_update_machine_info(config, machine_info):
    """Our environment instead of pytest-benchmark's, which holds the host's name."""
    from swav_bench import environment

    described = environment.describe() | {"implementation": _load(config).describe()}
    machine_info.clear()
    machine_info.update(described)


def _load(config):
    execution = Execution(config.getoption("device"), config.getoption("precision"), config.getoption("mode"))
    return registry.load(config.getoption("implementation"), execution)


@pytest.fixture(scope="session")
def implementation(request):
    return _load(request.config)


@pytest.fixture
def timed(benchmark, implementation):
    """Benchmarks a call of function(*arguments, **keywords) with the fence inside; gives its last result."""

    def run(function, *arguments, **keywords):
        def call():
            result = function(*arguments, **keywords)
            implementation.fence(result)
            return result

        call()  # traces and compiles
        call()
        return benchmark(call)

    return run


@pytest.fixture
def generator():
    return np.random.default_rng(0)


@pytest.fixture
def device_array(implementation):
    """A float64 NumPy array as float32 on the device (float64 where that is the precision)."""
    dtype = np.float64 if implementation.execution.precision == "float64" else np.float32
    return lambda array: implementation.to_device(np.asarray(array, dtype=dtype))
