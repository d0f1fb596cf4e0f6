"""Views made on the device against the specification's, which tests/spec holds against PIL and torch."""

import dataclasses

import numpy as np
import pytest

from swav_spec import views as reference
from swav_spec.config import Augmentation, Config, CropGroup, Network, Schedule
from swav_spec.multicrop import central_plan, crop_plan
from swav_spec.supervised import Supervised
from swav_spec.testing.assertions import assert_views_close, dtype_of
from swav_spec.testing.images import random_images

pytestmark = pytest.mark.needs("views")

LARGE, SMALL = (0.14, 1.0), (0.05, 0.14)
NOTHING = Augmentation(flip=0, jitter=0, grayscale=0, blur=0)
EVERYTHING = Augmentation(flip=1, jitter=1, hue=0.5, grayscale=0, blur=1)


def config(crops, augmentation=NOTHING, *, batch=6):
    return Config(
        batch=batch,
        crops=tuple(CropGroup(*crop) for crop in crops),
        network=Network(),
        schedule=Schedule(steps=1, base_lr=0.1),
        augmentation=augmentation,
        assigned=(0,),
    )


def assert_views(implementation, precision, images, plan, of_config, what):
    actual = implementation.views(implementation.to_device(images), plan, of_config)
    expected = reference.views(images, plan, of_config)
    assert len(actual) == len(expected)
    for number, (view, wanted) in enumerate(zip(actual, expected, strict=True)):
        on_host = implementation.to_host(view)
        assert on_host.dtype == dtype_of(precision)
        assert_views_close(on_host, wanted, precision=precision, what=f"{what}, resolution {number}")


CASES = {
    "demo": (
        config([(32, 2, (0.6, 1.0)), (16, 4, (0.2, 0.35))], Augmentation(hue=0.5, blur=0.2)),
        (32, 32),
    ),
    "photos shrunk": (config([(24, 2, LARGE), (12, 3, SMALL)], Augmentation()), (96, 80)),
    "tiny images enlarged": (config([(16, 2, LARGE)], EVERYTHING), (9, 7)),
    "resolutions that return": (config([(16, 1, LARGE), (12, 1, LARGE), (16, 1, SMALL)], EVERYTHING), (24, 24)),
    "long blur": (config([(20, 2, LARGE)], Augmentation(blur=1, blur_radius=(3.0, 8.0))), (24, 24)),
    "crops of one pixel": (config([(1, 2, LARGE)], EVERYTHING), (12, 12)),
}


@pytest.mark.parametrize("name", CASES)
def test_whole_pipeline(implementation, precision, name):
    of_config, (height, width) = CASES[name]
    images = random_images(1, of_config.batch, height, width)
    plan = crop_plan(of_config, seed=2, epoch=3, samples=np.arange(40, 46), heights=height, widths=width)
    assert_views(implementation, precision, images, plan, of_config, name)


#: One change at a time, on the same shapes, so that a failure says which it is.
CHANGES = {
    "crop and resize alone": NOTHING,
    "flip": dataclasses.replace(NOTHING, flip=1),
    "brightness": dataclasses.replace(NOTHING, jitter=1, contrast=0, saturation=0, hue=0),
    "contrast": dataclasses.replace(NOTHING, jitter=1, brightness=0, saturation=0, hue=0),
    "saturation": dataclasses.replace(NOTHING, jitter=1, brightness=0, contrast=0, hue=0),
    "hue": dataclasses.replace(NOTHING, jitter=1, brightness=0, contrast=0, saturation=0, hue=0.5),
    "jitter in every order": dataclasses.replace(NOTHING, jitter=1, hue=0.5),
    "grayscale": dataclasses.replace(NOTHING, grayscale=1),
    "blur": dataclasses.replace(NOTHING, blur=1),
    "mean and std": dataclasses.replace(NOTHING, mean=(0.1, 0.5, 0.9), std=(1.0, 0.5, 0.25)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_one_change(implementation, precision, name):
    of_config = config([(16, 8, LARGE)], CHANGES[name])
    images = random_images(3, of_config.batch, 24, 24)
    plan = crop_plan(of_config, seed=5, epoch=0, samples=np.arange(6), heights=24, widths=24)
    assert_views(implementation, precision, images, plan, of_config, name)


def test_images_of_many_sizes_on_one_canvas(implementation, precision):
    of_config, sides = CASES["photos shrunk"]  # and its program
    heights, widths = np.array([96, 17, 66, 5, 28, 96]), np.array([80, 80, 9, 6, 31, 20])
    canvas = np.full((6, *sides, 3), 255, dtype=np.uint8)  # what lies outside an image must not matter
    for row, (height, width) in enumerate(zip(heights, widths, strict=True)):
        canvas[row, :height, :width] = random_images(row, 5, height, width)[4]
    plan = crop_plan(of_config, seed=0, epoch=9, samples=np.arange(6), heights=heights, widths=widths)
    assert_views(implementation, precision, canvas, plan, of_config, "canvas")
    dark = canvas.copy()
    for row, (height, width) in enumerate(zip(heights, widths, strict=True)):
        dark[row, height:], dark[row, :, width:] = 0, 0
    for light, black in zip(
        implementation.views(implementation.to_device(canvas), plan, of_config),
        implementation.views(implementation.to_device(dark), plan, of_config),
        strict=True,
    ):
        assert_views_close(
            implementation.to_host(light), implementation.to_host(black), precision=precision, what="outside"
        )


def test_batch_of_a_resident_set(implementation, precision):
    of_config = config([(16, 2, LARGE)], EVERYTHING)
    images = random_images(4, 11, 24, 24)
    samples = np.array([7, 0, 10, 7, 3, 5])
    plan = crop_plan(of_config, seed=1, epoch=2, samples=samples, heights=24, widths=24, index=samples)
    assert_views(implementation, precision, images, plan, of_config, "by index")


def test_crops_are_crop_major(implementation, precision):
    of_config = config([(8, 3, LARGE)])
    images = np.stack([np.full((24, 24, 3), 40 * row, dtype=np.uint8) for row in range(6)])
    plan = crop_plan(of_config, seed=1, epoch=0, samples=np.arange(6), heights=24, widths=24)
    (view,) = implementation.views(implementation.to_device(images), plan, of_config)
    mean, std = np.array(of_config.augmentation.mean), np.array(of_config.augmentation.std)
    expected = np.tile((images[:, :8, :8] / 255 - mean) / std, (3, 1, 1, 1))
    assert_views_close(implementation.to_host(view), expected, precision=precision, what="flat images")


def test_the_middle_of_each_image(implementation, precision):
    """The central view of evaluation: one crop, nothing random, and a blur that reaches no neighbour."""
    heights, widths = np.array([24, 17, 33, 5, 28, 40]), np.array([48, 24, 9, 6, 31, 20])
    canvas = np.zeros((6, 40, 48, 3), dtype=np.uint8)
    for row, (height, width) in enumerate(zip(heights, widths, strict=True)):
        canvas[row, :height, :width] = random_images(row, 5, height, width)[4]
    central = Supervised(epochs=1, head_lr=0.1, size=24)  # which has one crop of each image
    for share in (224 / 256, 1):
        plan = central_plan(24, heights, widths, share=share)
        assert_views(implementation, precision, canvas, plan, central, f"central view of {share:.3f}")
    whole = random_images(6, 6, 24, 24)
    plan = central_plan(24, np.full(6, 24), np.full(6, 24), share=1)
    (view,) = implementation.views(implementation.to_device(whole), plan, central)
    assert_views_close(
        implementation.to_host(view), reference.normalised(whole, central), precision=precision, what="whole images"
    )


def test_mean_of_a_flat_photograph(implementation, precision):
    """Its luma, added up one by one in float32, is off by hundreds of roundings."""
    of_config = config([(224, 2, LARGE)], CHANGES["contrast"], batch=2)
    images = np.empty((2, 224, 224, 3), dtype=np.uint8)
    images[:] = np.array([[200, 90, 61], [249, 180, 77]])[:, None, None]
    plan = crop_plan(of_config, seed=1, epoch=0, samples=np.arange(2), heights=224, widths=224)
    assert_views(implementation, precision, images, plan, of_config, "flat")
