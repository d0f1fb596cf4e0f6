"""One training step from ready-made views, and forward and backward of the bare encoder at the same shapes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from swav_spec.network import initial_weights
from swav_spec.recipes import NETWORKS, RECIPES, resolve

pytestmark = pytest.mark.needs("trainer")
#: recipe, network and batch
SIZES = {
    "cpu": [("textures", "convnet4", 64)],
    "gpu": [("textures", "resnet18-cifar", 512), ("imagenet-800ep", "resnet50", 128)],
}


def _made(implementation, device_array, generator, size):
    name, network, batch = size
    recipe = dataclasses.replace(RECIPES[name], network=NETWORKS[network], batch=batch)
    config = resolve(recipe, samples=10**6, steps=10**6)
    views = [device_array(generator.normal(size=(count * batch, side, side, 3))) for side, count in config.resolutions]
    return implementation.init(config, initial_weights(config.network, 0)), views


def test_step_on_views(timed, implementation, device_array, generator, size):
    state, views = _made(implementation, device_array, generator, size)

    def step():  # a step may reuse its state's memory, so each call goes on from the last
        nonlocal state
        state, metrics = implementation.step_on_views(state, views)
        return metrics["loss"]

    loss = timed(step)
    assert implementation.to_host(loss) > 0


def test_encoder_step(timed, implementation, device_array, generator, size):
    state, views = _made(implementation, device_array, generator, size)
    assert np.isfinite(implementation.to_host(timed(implementation.encoder_step, state, views)))
