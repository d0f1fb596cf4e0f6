"""Codes of (rows given, prototypes, rows kept)."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.needs("maths")
SIZES = {
    "cpu": [(64, 30, 64), (320, 30, 64), (256, 300, 256)],
    "gpu": [(256, 3000, 256), (4096, 3000, 4096), (4352, 3000, 256), (65536, 3000, 65536), (32768, 30000, 32768)],
}


def test_sinkhorn(timed, implementation, device_array, generator, size):
    rows, prototypes, keep = size
    scores = device_array(generator.uniform(-1, 1, (rows, prototypes)))
    codes = timed(implementation.sinkhorn, scores, epsilon=0.05, iterations=3, keep=keep)
    assert codes.shape == (keep, prototypes)
