"""One LARC + SGD update of every tensor of a network."""

from __future__ import annotations

import pytest

from swav_spec.network import count_parameters, initial_weights, parameter_names
from swav_spec.recipes import NETWORKS

pytestmark = pytest.mark.needs("maths")
SIZES = {"cpu": ["convnet4"], "gpu": ["resnet18-cifar", "resnet50"]}


def test_larc_sgd(timed, implementation, device_array, size):
    network = NETWORKS[size]
    weights = initial_weights(network, 0)
    params = {name: device_array(weights[name]) for name in parameter_names(network)}
    grads = {name: device_array(weights[name] + 0.01) for name in params}
    new_params, _ = timed(
        implementation.larc_sgd, params, grads, grads, lr=0.6, weight_decay=1e-6, trust=0.001, decay=0.9
    )
    assert sum(param.reshape(-1).shape[0] for param in new_params.values()) == count_parameters(network)
