"""Made-up images for timing: always the same, never constant, and nothing to evaluate on."""

from __future__ import annotations

import numpy as np
import pytest

from swav_data import sources
from swav_data.noise import VARIANTS, noise


def test_the_same_numbers_always_give_the_same_images():
    one, again = noise(20, 16).train, noise(20, 16).train
    assert np.array_equal(one.images, again.images)
    assert not np.array_equal(one.images, noise(20, 16, seed=1).train.images)


@pytest.mark.parametrize(("count", "side"), [(1, 8), (20, 16), (VARIANTS * 3, 40)])
def test_images_differ_and_are_smooth_but_not_constant(count, side):
    data = noise(count, side).train
    assert data.images.shape == (count, side, side, 3)
    assert set(data.heights) == set(data.widths) == {side}
    assert len({image.tobytes() for image in data.images}) == count
    pixels = data.images.astype(float)
    assert pixels.std(axis=(1, 2)).min() > 5
    steps = abs(np.diff(noise(8, 256).train.images.astype(float), axis=2))
    assert 0.2 < steps.mean() < 10
    assert abs(pixels.mean() - 127.5) < 40


def test_variants_are_the_field_mirrored_and_inverted():
    images = noise(VARIANTS, 16).train.images
    assert np.array_equal(images[1], images[0][::-1])
    assert np.array_equal(images[2], images[0][:, ::-1])
    assert np.array_equal(images[4], 255 - images[0])


def test_there_is_nothing_to_evaluate_on():
    splits = sources.load("noise-32")
    assert splits.train.images.shape == (4096, 32, 32, 3)
    assert splits.validation is splits.test is None
    assert splits.train.classes == ("unlabelled",)
    assert "noise" in sources.NAMES
