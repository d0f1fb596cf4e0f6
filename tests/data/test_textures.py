"""The demo's images: the same every time, and told apart by shape alone."""

from __future__ import annotations

import numpy as np
import pytest

from swav_data import textures as module
from swav_data.textures import COUNTS, MOTIFS, SIDE, textures
from swav_eval import probes
from swav_spec.errors import InvalidInput


@pytest.fixture(scope="module")
def splits():
    return textures()


def test_counts_sizes_and_classes(splits):
    for split, count in COUNTS.items():
        part = getattr(splits, split)
        assert part.images.shape == (count, SIDE, SIDE, 3)
        assert part.classes == tuple(MOTIFS)
        per_class = np.bincount(part.labels, minlength=len(MOTIFS))
        assert per_class.max() - per_class.min() <= 1


def test_a_seed_gives_its_images_always_and_others_give_others(splits):
    again, other = textures(0), textures(1)
    assert np.array_equal(splits.train.images, again.train.images)
    assert np.array_equal(splits.test.labels, again.test.labels)
    assert not np.array_equal(splits.train.images, other.train.images)
    with pytest.raises(InvalidInput, match=r"^seed = -1"):
        textures(-1)


def test_no_image_is_in_two_splits(splits, monkeypatch):
    # Also where splits are equally large, and so draw equally many random numbers.
    monkeypatch.setattr(module, "COUNTS", dict.fromkeys(COUNTS, 24))
    for found in (splits, textures()):
        everything = np.concatenate([getattr(found, split).images for split in COUNTS])
        assert len({image.tobytes() for image in everything}) == len(everything)


def test_luminance_is_standardised(splits):
    luminance = splits.train.images.mean(axis=-1) / 255
    for statistic, expected in (("mean", 0.5), ("std", np.hypot(0.16, 0.12))):
        values = getattr(luminance, statistic)(axis=(1, 2))
        of_class = [values[splits.train.labels == label].mean() for label in range(len(MOTIFS))]
        assert abs(np.array(of_class) - expected).max() < 0.002  # a little is clipped


def test_brightness_contrast_and_colour_do_not_tell_the_class(splits):
    def statistics(part):
        pixels = part.images / 255.0
        return np.concatenate([pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))], axis=1)

    top1 = probes.knn_top1(
        statistics(splits.train), splits.train.labels, statistics(splits.test), splits.test.labels, k=20
    )
    assert top1 < 2 / len(MOTIFS)


def test_raw_pixels_are_a_weak_baseline(splits):
    train, test = splits.train, splits.test
    features = [probes.raw_pixels(part.images) for part in (train, test)]
    assert 0.3 < probes.knn_top1(features[0], train.labels, features[1], test.labels, k=20) < 0.45


@pytest.mark.parametrize("axis", [0, 1, (0, 1)])
def test_no_flip_turns_a_class_into_another(axis):
    side = 24
    v, u = np.mgrid[:side, :side] / side - 0.5 + 0.5 / side
    cells = {name: motif(u, v).astype(float) for name, motif in MOTIFS.items()}

    def same(one, two):
        """Whether two cells are equal up to an offset: their largest circular correlation reaches its bound."""
        best = np.fft.ifft2(np.fft.fft2(one) * np.conj(np.fft.fft2(two))).real.max()
        return np.isclose(best, np.sqrt((one**2).sum() * (two**2).sum()))

    assert same(cells["horizontal stripes"].T, cells["vertical stripes"])
    found = {
        (name, other) for name, cell in cells.items() for other in cells if same(np.flip(cell, axis), cells[other])
    }
    assert {pair for pair in found if pair[0] != pair[1]} == set()
    assert len(found) >= len(cells) - 3  # triangles, zigzags and diagonal stripes change, within their class
