"""What every implementation has: facts, arrays in and out, fences, and a clear answer to what it does not offer."""

import json

import numpy as np
import pytest

from swav_spec import registry
from swav_spec.config import Execution
from swav_spec.contract import Classifier, Device, Maths, Trainer, Views
from swav_spec.errors import InvalidInput
from swav_spec.testing.assertions import assert_same, dtype_of

#: Implementation -> what it does not keep yet.
ONE_SWITCH = {"tensorflow": "its TF32 switch is set when an implementation is made, not when it computes"}
PROTOCOLS = {"maths": Maths, "views": Views, "trainer": Trainer, "classifier": Classifier}


def test_it_has_what_it_says_it_fulfils(implementation):
    assert isinstance(implementation, Device)
    assert implementation.fulfils
    for part in implementation.fulfils:
        assert isinstance(implementation, PROTOCOLS[part]), part
    assert implementation.modes


def test_describe_is_json_and_says_where_it_runs(implementation, precision):
    facts = json.loads(json.dumps(implementation.describe(), allow_nan=False))
    assert {"framework", "version", "device", "precision", "mode", "flags", "compiler"} <= set(facts)
    assert facts["precision"] == precision
    assert facts["mode"] in implementation.modes
    assert facts["framework"]
    assert facts["version"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.bool_, None])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4)])
def test_arrays_come_back_as_they_went(implementation, precision, dtype, shape):
    array = np.asarray(np.random.default_rng(0).integers(0, 200, shape)).astype(dtype or dtype_of(precision))
    given = array.copy()
    on_device = implementation.to_device(given)
    back = implementation.to_host(on_device)
    assert isinstance(back, np.ndarray)
    assert_same(back, array, what=f"{array.dtype} {shape}")
    # Copies both ways: neither side sees what happens to the other.
    given[...] = 0
    assert_same(implementation.to_host(on_device), array, what="the device's copy")


def test_fence_and_peak(implementation, precision):
    implementation.reset_peak()
    array = implementation.to_device(np.ones((4, 4), dtype=dtype_of(precision)))
    implementation.fence()
    implementation.fence(array, {"nested": [array]})
    peak = implementation.peak_memory_bytes()
    assert peak is None or peak >= 16 * 4
    compilations = implementation.compilations()
    assert compilations is None or compilations >= 0


@pytest.mark.needs("trainer")
@pytest.mark.parametrize("other", ["float32", "tf32", "bfloat16"])
def test_making_another_precision_changes_nothing(request, implementation, other):
    name, device = (request.config.getoption(option) for option in ("--implementation", "--device"))
    own = implementation.execution.precision
    if name in ONE_SWITCH and (own == "tf32") != (other == "tf32"):
        request.applymarker(pytest.mark.xfail(reason=ONE_SWITCH[name], strict=True))
    registry.load(name, Execution(device, own))  # whatever was made before: the switches are this precision's now
    before = implementation.describe()
    try:
        registry.load(name, Execution(device, other))
        assert implementation.describe() == before
    finally:
        registry.load(name, Execution(device, own))


def test_modes_that_are_not_offered(request):
    name = request.config.getoption("--implementation")
    with pytest.raises(InvalidInput, match="mode = 'sideways'"):
        registry.load(name, Execution(request.config.getoption("--device"), "float32", "sideways"))
