"""Loss and gradient of (views, batch, prototypes), two of the views assigned."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.needs("maths")
SIZES = {"cpu": [(2, 64, 30), (6, 64, 30)], "gpu": [(2, 256, 3000), (8, 256, 3000), (8, 1024, 3000)]}


def test_swapped_loss(timed, implementation, device_array, generator, size):
    _, batch, prototypes = size
    scores = device_array(generator.uniform(-1, 1, size))
    codes = device_array(generator.dirichlet([1.0] * prototypes, (2, batch)))
    _, gradient = timed(implementation.swapped_loss, scores, codes, temperature=0.1, assigned=(0, 1))
    assert gradient.shape == size
