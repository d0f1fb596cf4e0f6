"""The crop plan: inside the images, of the area asked for, the same wherever a sample turns up, and quick."""

import dataclasses
import math
import time

import numpy as np
import pytest

from swav_spec.config import Augmentation, Config, CropGroup, Network, Schedule
from swav_spec.errors import InvalidInput
from swav_spec.multicrop import HUE, JITTER_ORDERS, central_plan, crop_plan
from swav_spec.testing.assertions import assert_close, assert_same
from swav_spec.views import resize_weights, views

SCALES = ((0.14, 1.0), (0.05, 0.14))
CONFIG = Config(
    batch=64,
    crops=(CropGroup(32, 2, SCALES[0]), CropGroup(16, 4, SCALES[1])),
    network=Network(),
    schedule=Schedule(steps=1, base_lr=0.1),
)
MANY = np.arange(4000)
#: Standard deviations of a rate over thousands of draws that chance may take it away from its mean.
SIGMAS = 5
#: Of a crop's plan, on one core that others share; 5 us by design.
MOST_SECONDS = 50e-6


def plan_of(samples=MANY, config=CONFIG, *, seed=0, epoch=0, heights=96, widths=80, **options):
    return crop_plan(config, seed=seed, epoch=epoch, samples=samples, heights=heights, widths=widths, **options)


def assert_same_crops(actual, rows, expected, wanted):
    for one, other in zip(actual.groups, expected.groups, strict=True):
        for name in one._fields[1:]:
            assert_same(getattr(one, name)[:, rows], getattr(other, name)[:, wanted], what=name)


def assert_rate(hits, chance):
    deviation = math.sqrt(chance * (1 - chance) / hits.size)
    assert abs(hits.mean() - chance) <= SIGMAS * deviation, f"{hits.mean()} against {chance}"


def test_shapes_and_types():
    plan = plan_of(np.arange(5))
    assert (plan.index.tolist(), plan.index.dtype) == ([0, 1, 2, 3, 4], np.int32)
    assert [(group.size, len(group.box)) for group in plan.groups] == [(32, 2), (16, 4)]
    for group in plan.groups:
        crops = len(group.box)
        found = {name: (value.shape[2:], value.dtype) for name, value in group._asdict().items() if name != "size"}
        assert all(getattr(group, name).shape[:2] == (crops, 5) for name in found)
        assert found == {
            "box": ((4,), np.int32),
            "flip": ((), np.bool_),
            "jitter_order": ((4,), np.int32),
            "jitter_factor": ((4,), np.float32),
            "grayscale": ((), np.bool_),
            "blur": ((group.blur.shape[2],), np.float32),
        }


def test_a_sample_gets_the_same_crops_in_any_batch():
    samples = np.array([17, 3, 2**32 - 1, 900])
    together = plan_of(samples, epoch=7)
    for row, sample in enumerate(samples):
        assert_same_crops(plan_of(np.array([sample]), epoch=7), [0], together, [row])
    assert_same_crops(plan_of(samples[::-1], epoch=7), [0, 1, 2, 3], together, [3, 2, 1, 0])


def test_sizes_of_the_others_do_not_matter():
    alone = plan_of(np.array([5]), heights=40, widths=50)
    mixed = plan_of(np.array([4, 5]), heights=np.array([7, 40]), widths=np.array([300, 50]))
    assert_same_crops(alone, [0], mixed, [1])


@pytest.mark.parametrize("change", [{"seed": 1}, {"seed": 2**32}, {"epoch": 1}, {"samples": MANY + 1}])
def test_every_coordinate_counts(change):
    before, after = plan_of(), plan_of(**change)
    for one, other in zip(before.groups, after.groups, strict=True):
        different = (one.box != other.box).any(axis=-1)
        assert different.mean() > 0.99


def test_crops_of_an_image_differ():
    for group in plan_of().groups:
        for crop in range(1, len(group.box)):
            assert (group.box[crop] != group.box[0]).any(axis=-1).mean() > 0.99


def test_the_last_sample_of_the_last_epoch_is_as_quick_as_the_first():
    def seconds(epoch, sample):
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            plan_of(np.arange(64) + sample, epoch=epoch)
            times.append(time.perf_counter() - begin)
        return min(times)

    assert seconds(2**32 - 1, 2**32 - 64) < 10 * seconds(0, 0)


def test_a_crop_costs_microseconds():
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        plan_of(MANY)
        times.append(time.perf_counter() - begin)
    assert min(times) / (len(MANY) * CONFIG.views) < MOST_SECONDS


@pytest.mark.parametrize(("height", "width"), [(96, 80), (480, 640), (32, 32), (3, 500), (500, 3), (2, 2), (1, 1)])
def test_boxes_lie_inside(height, width):
    for group in plan_of(heights=height, widths=width).groups:
        top, left, box_height, box_width = np.moveaxis(group.box, -1, 0)
        assert min(top.min(), left.min()) >= 0
        assert min(box_height.min(), box_width.min()) >= 1
        assert (top + box_height).max() <= height
        assert (left + box_width).max() <= width


def test_scale_is_area_and_ratio_is_width_over_height():
    # Large images, so that rounding to whole pixels is small beside the range.
    size = 2000
    for group, (low, high) in zip(plan_of(heights=size, widths=size).groups, SCALES, strict=True):
        box_height, box_width = group.box[..., 2], group.box[..., 3]
        area = box_height * box_width / size**2
        assert low - 0.002 <= area.min()
        assert area.max() <= high + 0.002
        ratio = box_width / box_height
        assert ratio.min() >= 3 / 4 - 0.01
        assert ratio.max() <= 4 / 3 + 0.01
    # The small crops always fit, so nothing is drawn again: area is uniform, the ratio's logarithm too.
    for drawn, (low, high) in ((area, SCALES[1]), (np.log(ratio), np.log((3 / 4, 4 / 3)))):
        deviation = (high - low) / math.sqrt(12 * drawn.size)
        assert abs(drawn.mean() - (low + high) / 2) <= SIGMAS * deviation
    assert abs((ratio > 1).mean() - 0.5) < 0.02


def test_positions_are_uniform():
    size = 400
    group = plan_of(heights=size, widths=size).groups[1]
    for at in (0, 1):
        share = group.box[..., at] / (size - group.box[..., at + 2])
        quarters = np.histogram(share, bins=4, range=(0, 1))[0] / share.size
        assert np.abs(quarters - 0.25).max() < 0.02


def test_what_does_not_fit_is_taken_from_the_centre():
    config = dataclasses.replace(CONFIG, crops=(CropGroup(8, 2, (0.9, 1.0)),))
    for height, width in ((20, 400), (400, 20)):
        box = plan_of(np.arange(20), config, heights=height, widths=width).groups[0].box
        side = round(20 * 4 / 3)
        expected = [0, (400 - side) // 2, 20, side] if height < width else [(400 - side) // 2, 0, side, 20]
        assert np.unique(box.reshape(-1, 4), axis=0).tolist() == [expected]


def test_chances():
    augmentation = CONFIG.augmentation
    for group in plan_of().groups:
        assert_rate(group.flip, augmentation.flip)
        assert_rate(group.grayscale, augmentation.grayscale)
        assert_rate(group.blur[..., 0] < 1, augmentation.blur)
        assert_rate((group.jitter_factor != np.array([1, 1, 1, 0])).any(axis=-1), augmentation.jitter)
        orders, counts = np.unique(group.jitter_order.reshape(-1, 4), axis=0, return_counts=True)
        assert orders.tolist() == JITTER_ORDERS.tolist()
        assert counts.min() > 0.5 * counts.mean()


def test_chances_are_independent_of_each_other():
    group = plan_of().groups[1]
    events = [group.flip, group.grayscale, group.blur[..., 0] < 1, group.jitter_factor[..., HUE] != 0]
    events += [group.box[..., 0] > np.median(group.box[..., 0])]
    correlations = np.corrcoef([event.ravel() for event in events]) - np.eye(len(events))
    assert np.abs(correlations).max() < SIGMAS / math.sqrt(group.flip.size)


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_chances_of_never_and_always(chance):
    augmentation = Augmentation(flip=chance, jitter=chance, grayscale=chance, blur=chance)
    for group in plan_of(config=dataclasses.replace(CONFIG, augmentation=augmentation)).groups:
        assert (group.flip == chance).all()
        assert (group.grayscale == chance).all()
        assert ((group.blur[..., 0] < 1) == chance).all()
        assert ((group.jitter_factor != np.array([1, 1, 1, 0])).any(axis=-1) == chance).all()


def test_factors_fill_their_ranges():
    augmentation = Augmentation(jitter=1, brightness=0.4, contrast=1.5, saturation=0.8, hue=0.2)
    factors = np.concatenate(
        [
            group.jitter_factor.reshape(-1, 4)
            for group in plan_of(config=dataclasses.replace(CONFIG, augmentation=augmentation)).groups
        ]
    )
    for at, (low, high) in enumerate([(0.6, 1.4), (0.0, 2.5), (0.2, 1.8), (-0.2, 0.2)]):
        margin = 0.01 * (high - low)
        assert low <= factors[:, at].min() < low + margin
        assert high - margin < factors[:, at].max() <= np.float32(high)


def test_equal_neighbouring_resolutions_are_one_run():
    crops = (CropGroup(16, 1, SCALES[0]), CropGroup(16, 2, SCALES[1]), CropGroup(8, 1, SCALES[0]))
    plan = plan_of(config=dataclasses.replace(CONFIG, crops=crops), heights=200, widths=200)
    assert [(group.size, len(group.box)) for group in plan.groups] == [(16, 3), (8, 1)]
    area = plan.groups[0].box[..., 2] * plan.groups[0].box[..., 3] / 200**2
    assert area[0].max() > SCALES[1][1]
    assert area[1:].max() < SCALES[1][1] + 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed = -1"),
        ({"seed": 2**64}, "seed"),
        ({"epoch": 2**32}, "epoch"),
        ({"samples": np.array([2**32])}, "samples"),
        ({"samples": np.array([-1])}, "samples"),
        ({"samples": np.array([], dtype=np.int64)}, "samples' shape"),
        ({"heights": 0}, "image side"),
    ],
)
def test_numbers_out_of_range(change, message):
    with pytest.raises(InvalidInput, match=message):
        plan_of(**change)


def test_the_central_view_is_the_middle_resized_and_nothing_else():
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 64, 3), dtype=np.uint8)
    plan = central_plan(16, np.array([40, 32]), np.array([64, 24]))
    assert plan.groups[0].box.tolist() == [[[2, 14, 35, 35], [5, 1, 21, 21]]]
    (made,) = views(images, plan, CONFIG)
    mean, std = CONFIG.augmentation.mean, CONFIG.augmentation.std
    for row, (top, left, side, _) in enumerate(plan.groups[0].box[0]):
        weights = resize_weights(side, 16)
        middle = images[row, top : top + side, left : left + side] / 255.0
        expected = (np.einsum("oh,hwc,pw->opc", weights, middle, weights, optimize=True) - mean) / std
        assert_close(made[row], expected, precision="float64", what="view")


def test_the_whole_of_a_square_image_is_itself():
    images = np.random.default_rng(1).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    (made,) = views(images, central_plan(16, np.array([16]), np.array([16]), share=1), CONFIG)
    expected = (images / 255.0 - CONFIG.augmentation.mean) / CONFIG.augmentation.std
    assert_close(made, expected, precision="float64", what="view")


@pytest.mark.parametrize(
    ("size", "share", "words"), [(0, 1, "size = 0"), (8, 0, r"share = 0: must be in \(0, 1\]"), (8, 1.1, "share = 1.1")]
)
def test_limits_of_the_central_plan(size, share, words):
    with pytest.raises(InvalidInput, match=words):
        central_plan(size, np.array([9]), np.array([9]), share=share)
