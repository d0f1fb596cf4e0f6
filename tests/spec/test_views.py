"""Views in NumPy against those who define them: torch's resize, PIL's blur and pipeline, colorsys' hue."""

import colorsys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from swav_spec import views
from swav_spec.config import Augmentation, Config, CropGroup, Network, Schedule
from swav_spec.multicrop import BRIGHTNESS, CONTRAST, HUE, SATURATION, blur_reach, blur_weights, crop_plan
from swav_spec.testing.assertions import (
    BLUR_LEVELS,
    HUE_TOLERANCE,
    PIPELINE_LEVELS,
    RESIZE_FLOAT64,
    assert_close,
    assert_levels,
    assert_same,
    assert_within,
)
from swav_spec.testing.golden import arrays_of
from swav_spec.testing.images import random_images

RESIZES = arrays_of(Path(__file__).parent / "fixtures", "resize")
RESIZE_CASES = sum(name.startswith("image_") for name in RESIZES)


@pytest.mark.parametrize("number", range(RESIZE_CASES))
def test_resize_is_torchs_antialiased_bilinear(number):
    image, expected = RESIZES[f"image_{number}"], RESIZES[f"resized_{number}"]
    down = views.resize_weights(image.shape[0], len(expected))
    across = views.resize_weights(image.shape[1], len(expected))
    assert_within(
        np.einsum("oh,hwc,pw->opc", down, image, across), expected, RESIZE_FLOAT64, what=f"resize of {image.shape}"
    )


def test_a_flip_reverses_the_outputs_exactly():
    assert_same(views.resize_weights(37, 16, flip=True), views.resize_weights(37, 16)[::-1].copy(), what="flip")


@pytest.mark.parametrize("radius", [0.1, 0.5, 1.0, 1.6, 2.0, 4.0, 9.5])
def test_blur_is_pils(radius):
    mean, largest = BLUR_LEVELS
    for number, image in enumerate(random_images(0, 6, 33, 41)):
        expected = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
        weights = blur_weights(np.array(radius), blur_reach(radius))
        actual = 255 * views.blur(image / 255, weights)
        assert_levels(actual, expected, mean=mean, largest=largest, what=f"blur {radius} of image {number}")


def test_blur_weights():
    reach = blur_reach(2.0)
    weights = blur_weights(np.array([0.0, 0.1, 0.7, 2.0]), reach)
    assert weights.shape == (4, reach + 1)
    assert_close(weights[0], np.eye(1, reach + 1)[0], precision="float64", what="no blur")
    assert_close(weights[:, 0] + 2 * weights[:, 1:].sum(axis=1), np.ones(4), precision="float64", what="sums")
    # Three equal passes have three times the variance of one: together the square of the radius, exactly.
    variance = 3 * 2 * (weights * np.arange(reach + 1) ** 2).sum(axis=1)
    assert_close(variance, np.array([0.0, 0.1, 0.7, 2.0]) ** 2, precision="float64", what="variances")


def test_hue_is_colorsys():
    rng = np.random.default_rng(0)
    pixels = np.concatenate([rng.random((500, 3)), np.eye(3), 1 - np.eye(3), np.zeros((1, 3)), np.ones((1, 3))])
    for turns in (-0.5, -0.2, -0.01, 0.0, 0.13, 0.5):
        expected = []
        for red, green, blue in pixels:
            hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
            expected.append(colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value))
        assert_within(views.shift_hue(pixels, turns), np.array(expected), HUE_TOLERANCE, what=f"hue by {turns}")


def pil_hue(image, turns):
    hue, saturation, value = image.convert("HSV").split()
    shifted = (np.asarray(hue, dtype=np.int64) + round(255 * turns)) % 256
    return Image.merge("HSV", (Image.fromarray(shifted.astype(np.uint8)), saturation, value)).convert("RGB")


def pil_view(image, group, radius, crop, row):
    """One view by PIL's own operations, which round to bytes after each, from the same numbers."""
    top, left, height, width = (int(number) for number in group.box[crop, row])
    view = Image.fromarray(image).crop((left, top, left + width, top + height))
    view = view.resize((group.size, group.size), Image.Resampling.BILINEAR)
    if group.flip[crop, row]:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for kind in group.jitter_order[crop, row]:
        factor = float(group.jitter_factor[crop, row, kind])
        if kind == HUE:
            view = pil_hue(view, factor)
        else:
            blend = {
                BRIGHTNESS: ImageEnhance.Brightness,
                CONTRAST: ImageEnhance.Contrast,
                SATURATION: ImageEnhance.Color,
            }
            view = blend[int(kind)](view).enhance(factor)
    if group.grayscale[crop, row]:
        view = view.convert("L").convert("RGB")
    return np.asarray(view.filter(ImageFilter.GaussianBlur(radius)) if radius else view)


@pytest.mark.parametrize("radius", [0.0, 1.3])
def test_whole_pipeline_is_pils(radius):
    # One radius for all, since a plan holds weights and PIL asks for the radius.
    augmentation = Augmentation(blur=float(radius > 0), blur_radius=(radius, radius))
    config = Config(
        batch=8,
        crops=(CropGroup(32, 2, (0.14, 1.0)), CropGroup(16, 4, (0.05, 0.14))),
        network=Network(),
        schedule=Schedule(steps=1, base_lr=0.1),
        augmentation=augmentation,
    )
    images = random_images(5, 8, 64, 56)
    plan = crop_plan(config, seed=4, epoch=1, samples=np.arange(8), heights=64, widths=56)
    for group in plan.groups:
        places = list(np.ndindex(group.box.shape[:2]))
        actual = [255 * views.view(images[row], group, crop, row) for crop, row in places]
        expected = [pil_view(images[row], group, radius, crop, row) for crop, row in places]
        assert_levels(np.array(actual), np.array(expected), mean=PIPELINE_LEVELS, what=f"{group.size} pixels")


def test_views_are_one_array_for_each_resolution():
    config = Config(
        batch=3,
        crops=(CropGroup(12, 2, (0.5, 1.0)), CropGroup(8, 1, (0.1, 0.2))),
        network=Network(),
        schedule=Schedule(steps=1, base_lr=0.1),
    )
    images = random_images(0, 5, 20, 20)
    plan = crop_plan(config, seed=0, epoch=0, samples=np.arange(3), heights=20, widths=20, index=np.array([4, 1, 2]))
    large, small = views.views(images, plan, config)
    assert large.shape == (6, 12, 12, 3)
    assert small.shape == (3, 8, 8, 3)
    mean, std = np.array(config.augmentation.mean), np.array(config.augmentation.std)
    expected = (views.view(images[1], plan.groups[0], 1, 1) - mean) / std
    assert_same(large[3 + 1], expected, what="crop 1 of row 1 is row B + 1")
