"""Modules of the framework against a forward pass in NumPy: stages of several blocks, a side that no stride divides.

Several resolutions, and sides that strides do divide, are the business of the properties and of the traces.
"""

import numpy as np
import pytest

from swav_spec.config import Config, CropGroup, Network, Schedule
from swav_spec.network import initial_weights, is_buffer
from swav_spec.testing.assertions import assert_close, dtype_of, is_low
from swav_spec.testing.reference import Reference

pytestmark = pytest.mark.needs("trainer")

HEAD = {"hidden": 10, "embedding": 6, "prototypes": 5}
NETWORKS = {
    "basic, cifar stem": Network(block="basic", depths=(2, 1), widths=(4, 6), strides=(1, 2), stem="cifar", **HEAD),
    "bottleneck, imagenet stem": Network(
        block="bottleneck", depths=(1, 2), widths=(3, 4), strides=(1, 2), stem="imagenet", **HEAD
    ),
    "conv, no stem": Network(block="conv", depths=(1, 2), widths=(4, 6), strides=(2, 2), stem="none", **HEAD),
}
#: Roundings through at most 11 convolutions with their normalisations, and the head.
DEPTH = 13 * 4


@pytest.fixture(scope="module", params=NETWORKS)
def config(request):
    return Config(
        batch=5,
        crops=(CropGroup(19, 2, (0.1, 1.0)),),
        network=NETWORKS[request.param],
        schedule=Schedule(steps=2, base_lr=0.1),
    )


def weights_of(config):
    """Initial weights, with scales, shifts and running statistics that are not those of a start."""
    weights = initial_weights(config.network, 0)
    rng = np.random.default_rng(1)
    for name, value in weights.items():
        if value.ndim == 1 and name.endswith(("weight", "running_var")):
            weights[name] = rng.uniform(0.5, 1.5, value.shape)
        elif value.ndim == 1 and name.endswith(("bias", "running_mean")):
            weights[name] = rng.normal(0, 0.3, value.shape)
    return weights


def test_forward_pass_and_statistics(implementation, precision, config):
    rng = np.random.default_rng(2)
    # Low roundings do not line up: all layers' together come to a few.
    depth = 4 if is_low(precision) else DEPTH
    views = [rng.normal(size=(count * config.batch, side, side, 3)) for side, count in config.resolutions]
    on_device = [implementation.to_device(view.astype(dtype_of(precision))) for view in views]
    weights = weights_of(config)
    state = implementation.init(config, weights)
    reference = Reference()
    expected_state = reference.init(config, weights)
    for train in (True, False):
        found = implementation.forward(state, on_device, train=train)
        expected = reference.forward(expected_state, views, train=train)
        for name, part, wanted in zip(("features", "embeddings", "scores"), found, expected, strict=True):
            what = f"{name}, {'batch' if train else 'running'} statistics"
            assert_close(implementation.to_host(part), wanted, precision=precision, depth=depth, what=what)

    state, _ = implementation.step_on_views(state, on_device)
    expected_state, _ = reference.step_on_views(expected_state, views)
    arrays = implementation.to_arrays(state)
    for name, wanted in reference.to_arrays(expected_state).items():
        if is_buffer(name):
            assert_close(arrays[name], wanted, precision=precision, depth=depth, what=name)
