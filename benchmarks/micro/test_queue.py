"""Scores of a full queue, and a push, of (rows, batch, embedding, prototypes), two views."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.needs("maths")
SIZES = {"cpu": [(256, 64, 32, 30)], "gpu": [(3840, 256, 128, 3000)]}


def test_queue_read(timed, implementation, device_array, generator, size):
    rows, _, embedding, prototypes = size
    queue = device_array(generator.normal(size=(2, rows, embedding)))
    weights = device_array(generator.normal(size=(prototypes, embedding)))
    scores = timed(implementation.queue_read, queue, rows, weights)
    assert scores.shape == (2, rows, prototypes)


def test_queue_push(timed, implementation, device_array, generator, size):
    rows, batch, embedding, _ = size
    queue = device_array(generator.normal(size=(2, rows, embedding)))
    new = device_array(generator.normal(size=(2, batch, embedding)))
    pushed, count = timed(implementation.queue_push, queue, rows, new)
    assert pushed.shape == queue.shape
    assert count == rows + batch
