"""CIFAR-10 and photographs of flowers, from --data-dir."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from swav_data.canvas import Canvas
from swav_data.sources import load, open_source
from swav_data.stream import Stream
from swav_eval import probes

pytestmark = pytest.mark.needs_data


@pytest.fixture(scope="module")
def data_dir(request):
    return Path(request.config.getoption("data_dir"))


def test_cifar10_decodes_and_raw_pixels_do_as_known(data_dir):
    splits = load(data_dir / "cifar10")
    assert splits.train.images.shape == (50_000, 32, 32, 3)
    assert splits.test.images.shape == (10_000, 32, 32, 3)
    for part in (splits.train, splits.test):
        assert len(part.classes) == 10
        assert (part.heights == 32).all()
        assert (np.bincount(part.labels) == len(part) / 10).all()
    # Means of the training pixels that everybody who normalises CIFAR-10 quotes.
    assert abs(splits.train.images.mean(axis=(0, 1, 2)) / 255 - [0.4914, 0.4822, 0.4465]).max() < 2e-3
    few = slice(0, 5000), slice(0, 1000)
    train, test = (
        probes.raw_pixels(part.images[rows]) for part, rows in zip((splits.train, splits.test), few, strict=True)
    )
    top1 = probes.knn_top1(train, splits.train.labels[few[0]], test, splits.test.labels[few[1]], k=20)
    assert 0.2 < top1 < 0.4


@pytest.mark.parametrize("workers", [0, 2])
def test_flowers_stream_as_they_load(data_dir, workers):
    canvas = Canvas(resize_short=96, max_side=128)
    in_memory = load(data_dir / "flowers", canvas=canvas).test
    encoded = open_source(data_dir / "flowers").test
    assert len(set(zip(in_memory.heights.tolist(), in_memory.widths.tolist(), strict=True))) > 1
    with Stream(encoded, batch=64, seed=0, steps=range(3), workers=workers, canvas=canvas) as stream:
        for batch in stream:
            height, width = in_memory.images.shape[1:3]
            assert np.array_equal(batch.images[:, :height, :width], in_memory.images[batch.samples])
            assert np.array_equal(batch.labels, in_memory.labels[batch.samples])
