"""Views of a batch of (images, their side) in the crops of a recipe."""

from __future__ import annotations

import numpy as np
import pytest

from swav_spec.multicrop import crop_plan
from swav_spec.recipes import RECIPES, resolve

pytestmark = pytest.mark.needs("views")
SIZES = {"cpu": [("textures", 64, 32)], "gpu": [("textures", 1024, 32), ("imagenet-800ep", 256, 256)]}


def test_views(timed, implementation, generator, size):
    recipe, batch, side = size
    config = resolve(RECIPES[recipe], samples=10**6)
    images = implementation.to_device(generator.integers(0, 256, (batch, side, side, 3), dtype=np.uint8))
    plan = crop_plan(config, seed=0, epoch=0, samples=np.arange(batch), heights=side, widths=side)
    views = timed(implementation.views, images, plan, config)
    assert sum(len(group) for group in views) == batch * config.views
