"""What is true of the crop plan and of the views made from it."""

from __future__ import annotations

import itertools
import math

import hypothesis.strategies as st
import numpy as np

from swav_spec import views as specification
from swav_spec.config import Augmentation, Config, CropGroup, Network, Schedule
from swav_spec.multicrop import HUE, CropPlan, GroupPlan, crop_plan
from swav_spec.testing.assertions import assert_close, assert_same, assert_views_close
from swav_spec.testing.properties import holds
from swav_spec.testing.strategies import generator, seeds
from swav_spec.testing.subject import Subject

#: Chance that a statement about frequencies fails for a right plan.
FALSE_ALARM = 2.0**-40
#: Samples that a frequency is counted over; the difference that passes is `chance_bound` of it, some 4 %.
COUNTED = 8192


def chance_bound(draws: int) -> float:
    """Largest |mean - expectation| of independent numbers in [0, 1], but for FALSE_ALARM (Hoeffding 1963)."""
    return math.sqrt(math.log(2 / FALSE_ALARM) / (2 * draws))


USUAL = Augmentation()
PLAIN = Augmentation(flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0)
GROUPS = ((CropGroup(8, 2, (0.3, 1.0)), CropGroup(4, 2, (0.05, 0.3))), (CropGroup(6, 3, (0.5, 1.0)),))


def config_of(crops: tuple[CropGroup, ...], augmentation: Augmentation = USUAL) -> Config:
    """A config of these crops; nothing else of it is used."""
    return Config(
        batch=2,
        crops=crops,
        network=Network(),
        schedule=Schedule(steps=1, base_lr=0.0),
        augmentation=augmentation,
        assigned=(0,),
    )


configs = st.sampled_from(GROUPS).map(config_of)
plain_configs = st.sampled_from(GROUPS).map(lambda crops: config_of(crops, PLAIN))
sides = st.sampled_from(((12, 12), (9, 16), (16, 7), (64, 48)))
run_seeds = st.one_of(st.integers(0, 9), st.integers(0, 2**64 - 1))


def planned(subject: Subject, config: Config, **choices) -> CropPlan:
    """The subject's plan."""
    return subject.implementation.crop_plan(config, **choices)


def same_plan(actual: GroupPlan, expected: GroupPlan, what: str) -> None:
    """Two plans of a resolution agree bit for bit."""
    for name in GroupPlan._fields[1:]:
        assert_same(getattr(actual, name), getattr(expected, name), what=f"{name} of {what}")


@holds("crop_plan", config=configs, seed=run_seeds, side=sides)
def boxes_lie_inside_the_image(subject: Subject, config: Config, seed: int, side: tuple[int, int]) -> None:
    """Every box has at least a pixel and lies inside its own image, whatever shape that and its neighbours have."""
    height, width = side
    samples = np.arange(16)
    heights, widths = np.where(samples % 2, 5, height), np.where(samples % 2, 9, width)
    plan = planned(subject, config, seed=seed, epoch=0, samples=samples, heights=heights, widths=widths)
    for group in plan.groups:
        top, left, box_height, box_width = np.moveaxis(group.box, -1, 0)
        inside = (top >= 0) & (left >= 0) & (top + box_height <= heights) & (left + box_width <= widths)
        assert inside.all(), f"box {group.box[~inside][0]} is not inside its image"
        assert group.box[..., 2:].min() >= 1, "an empty box"


@holds("crop_plan", low=st.integers(2, 6), width=st.integers(1, 4), seed=run_seeds, share=0.2)
def scale_is_a_share_of_the_area(subject: Subject, low: int, width: int, seed: int) -> None:
    """A box's area over the image's is uniform in `scale`: between its ends, and its mean midway."""
    scale = (low / 32, (low + width) / 32)  # small enough that every box fits at the first attempt
    side = 256
    config = config_of((CropGroup(4, 2, scale),))
    plan = planned(subject, config, seed=seed, epoch=0, samples=np.arange(COUNTED), heights=side, widths=side)
    box_height, box_width = np.moveaxis(plan.groups[0].box[..., 2:].astype(np.float64), -1, 0)
    # Sides are rounded to pixels, each by at most a half.
    least, most = (box_height - 0.5) * (box_width - 0.5), (box_height + 0.5) * (box_width + 0.5)
    assert (most >= scale[0] * side**2).all(), "a box's area is below scale"
    assert (least <= scale[1] * side**2).all(), "a box's area is above scale"
    share = box_height * box_width / side**2
    position = (share.mean() - scale[0]) / (scale[1] - scale[0])
    # Rounding moves an area by less than a pixel's width around it, either way.
    slack = chance_bound(share.size) + 2 / side
    assert abs(position - 0.5) <= slack, f"mean area lies at {position:.3f} of the range, must be .5 within {slack:.3f}"


@holds("crop_plan", seed=run_seeds, share=0.2)
def ratios_are_uniform_on_a_log_scale(subject: Subject, seed: int) -> None:
    """Width over height lies in `ratio`, its logarithm uniform: midway on average, half of it in the middle half."""
    ratio, side = (1 / 2, 2.0), 512
    config = config_of((CropGroup(4, 2, (0.1, 0.2)),), Augmentation(ratio=ratio))
    plan = planned(subject, config, seed=seed, epoch=0, samples=np.arange(COUNTED), heights=side, widths=side)
    box_height, box_width = np.moveaxis(plan.groups[0].box[..., 2:].astype(np.float64), -1, 0)
    assert ((box_width + 0.5) / (box_height - 0.5) >= ratio[0]).all(), "a box is too narrow"
    assert ((box_width - 0.5) / (box_height + 0.5) <= ratio[1]).all(), "a box is too wide"
    position = np.log(box_width / box_height / ratio[0]) / math.log(ratio[1] / ratio[0])
    slack = chance_bound(position.size) + 2 / side
    assert abs(position.mean() - 0.5) <= slack, f"mean log ratio lies at {position.mean():.3f}, must be .5"
    middle = ((position > 0.25) & (position < 0.75)).mean()
    assert abs(middle - 0.5) <= slack + 4 / side, f"{middle:.3f} of log ratios lie in the middle half, must be .5"


@holds("crop_plan", seed=run_seeds, share=0.2)
def positions_are_uniform(subject: Subject, seed: int) -> None:
    """A box lies anywhere it fits: midway on average, down and across, one independent of the other."""
    side = 256
    config = config_of((CropGroup(4, 2, (0.05, 0.15)),))
    plan = planned(subject, config, seed=seed, epoch=0, samples=np.arange(COUNTED), heights=side, widths=side)
    box = plan.groups[0].box.astype(np.float64)
    down, across = (box[..., i] / (side - box[..., i + 2]) for i in (0, 1))
    slack = chance_bound(down.size)
    for name, value in (("top", down), ("left", across), ("their agreement", ((down > 0.5) == (across > 0.5)))):
        assert abs(value.mean() - 0.5) <= slack, f"mean of {name} is {value.mean():.3f}, must be .5 within {slack:.3f}"


@holds("crop_plan", seed=run_seeds, chance=st.sampled_from((0.5, 0.2, 0.8, 0.0, 1.0)), share=0.2)
def chances_are_kept(subject: Subject, seed: int, chance: float) -> None:
    """Flip, jitter, grayscale and blur each happen as often as asked, and independently."""
    augmentation = Augmentation(flip=chance, jitter=chance, grayscale=chance, blur=chance, hue=0.5)
    plan = planned(
        subject, config_of(GROUPS[1], augmentation), seed=seed, epoch=1, samples=np.arange(COUNTED), heights=8, widths=8
    )
    group = plan.groups[0]
    happened = {
        "flip": group.flip,
        "jitter": group.jitter_factor[..., HUE] != 0,
        "grayscale": group.grayscale,
        "blur": group.blur[..., 0] != 1,
    }
    slack = chance_bound(group.flip.size)
    for name, values in happened.items():
        assert abs(values.mean() - chance) <= slack, f"{name} in {values.mean():.3f} of the crops, must be {chance}"
        others = [other for other in happened if other != name]
        for other in others:
            both = (values & happened[other]).mean()
            assert abs(both - chance**2) <= slack, f"{name} and {other} in {both:.3f}, must be {chance**2:.3f}"


@holds("crop_plan", seed=run_seeds, share=0.2)
def jitter_is_in_range_and_in_any_order(subject: Subject, seed: int) -> None:
    """Factors are uniform in 1 - x .. 1 + x, hue in -x .. x; each change comes first in a quarter of the crops."""
    augmentation = Augmentation(jitter=1.0, brightness=0.8, contrast=0.4, saturation=0.6, hue=0.2)
    plan = planned(
        subject, config_of(GROUPS[1], augmentation), seed=seed, epoch=2, samples=np.arange(COUNTED), heights=8, widths=8
    )
    group = plan.groups[0]
    spreads = np.array([augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue])
    position = (group.jitter_factor - np.array([1.0, 1.0, 1.0, 0.0])) / spreads
    # Factors are float32, so the ends of the range are reached.
    assert (np.abs(position) <= np.nextafter(np.float32(1), np.float32(2)) + np.spacing(np.float32(8))).all(), (
        "a factor is out of range"
    )
    slack = chance_bound(group.flip.size)
    means = (position.reshape(-1, 4).mean(axis=0) + 1) / 2
    assert (np.abs(means - 0.5) <= slack).all(), f"mean positions of the factors {means}, must be .5"
    assert (np.sort(group.jitter_order, axis=-1) == np.arange(4)).all(), "an order that is not of 0, 1, 2, 3"
    for place in range(4):
        first = np.bincount(group.jitter_order[..., place].ravel(), minlength=4) / group.flip.size
        assert (np.abs(first - 0.25) <= slack).all(), f"changes at place {place}: {first}, must be .25 each"


@holds("crop_plan", config=configs, seed=run_seeds, epoch=st.integers(0, 2**32 - 1), first=st.integers(0, 2**32 - 32))
def any_sample_alone_is_planned_alike(subject: Subject, config: Config, seed: int, epoch: int, first: int) -> None:
    """A sample's crops depend on seed, epoch, sample and crop only: not on its batch, nor on its place in it."""
    samples = first + np.arange(12)
    place = {"seed": seed, "epoch": epoch, "heights": 12, "widths": 16}
    whole = planned(subject, config, samples=samples, **place)
    order = generator(seed % 2**16).permutation(12)[:5]
    some = planned(subject, config, samples=samples[order], **place)
    for number, (actual, expected) in enumerate(zip(some.groups, whole.groups, strict=True)):
        wanted = GroupPlan(expected.size, *(array[:, order] for array in expected[1:]))
        same_plan(actual, wanted, f"resolution {number} planned in another batch")


@holds("crop_plan", config=configs, seed=run_seeds, epoch=st.integers(0, 99))
def epochs_samples_and_crops_differ(subject: Subject, config: Config, seed: int, epoch: int) -> None:
    """Another epoch, seed, sample or crop gets other numbers."""
    place = {"heights": 256, "widths": 256, "samples": np.arange(32)}
    plan = planned(subject, config, seed=seed, epoch=epoch, **place)
    for what, other in (
        ("epochs", planned(subject, config, seed=seed, epoch=epoch + 1, **place)),
        ("seeds", planned(subject, config, seed=(seed + 1) % 2**64, epoch=epoch, **place)),
    ):
        for group, moved in zip(plan.groups, other.groups, strict=True):
            same = (group.box == moved.box).all(axis=-1).mean()
            assert same <= 0.5, f"{same:.2f} of boxes are the same in two {what}"
    boxes = np.concatenate([group.box for group in plan.groups])
    for what, moved in (("samples", np.roll(boxes, 1, axis=1)), ("crops", np.roll(boxes, 1, axis=0))):
        same = (boxes == moved).all(axis=-1).mean()
        assert same <= 0.5, f"{same:.2f} of boxes are the same in two {what}"


@holds("crop_plan", seed=run_seeds, share=0.2)
def crops_of_a_sample_are_independent(subject: Subject, seed: int) -> None:
    """What is drawn for one crop of a sample says nothing of the others, those of another resolution included."""
    crops = (CropGroup(8, 2, (0.3, 0.6)), CropGroup(4, 2, (0.05, 0.3)))  # no box fills a side: each has room to move
    config, side = config_of(crops, Augmentation(jitter=1.0)), 256
    plan = planned(subject, config, seed=seed, epoch=3, samples=np.arange(COUNTED), heights=side, widths=side)
    # Of each crop and sample, events of chance a half; two crops then agree in half of the samples.
    events: dict[str, list[np.ndarray]] = {}
    for (low, high), group in zip((crop.scale for crop in crops), plan.groups, strict=True):
        top, left, height, width = np.moveaxis(group.box.astype(np.float64), -1, 0)
        drawn = {
            "flip": group.flip,
            "area": height * width / side**2 > (low + high) / 2,
            "ratio": width > height,
            "top": top / (side - height) > 0.5,
            "left": left / (side - width) > 0.5,
            "brightness": group.jitter_factor[..., 0] > 1,
            "hue": group.jitter_factor[..., HUE] > 0,
            "order": group.jitter_order[..., 0] < 2,
        }
        for name, values in drawn.items():
            events.setdefault(name, []).extend(values)
    # Boxes have whole pixels, so that their events have a chance of a half less a little: a box may be square.
    slack = chance_bound(COUNTED) + 4 / side
    for name, values in events.items():
        for one, other in itertools.combinations(range(len(values)), 2):
            agree = (values[one] == values[other]).mean()
            assert abs(agree - 0.5) <= slack, f"{name} of crops {one} and {other} agree in {agree:.3f}, must be .5"


@holds("crop_plan", seed=run_seeds, top=st.sampled_from((0.5, 2.0, 5.0)))
def blur_weights_are_a_box_of_the_radius(subject: Subject, seed: int, top: float) -> None:
    """Weights of a pass sum to 1 and fall with distance; three passes have the radius squared as their variance."""
    augmentation = Augmentation(blur=1.0, blur_radius=(top, top))
    plan = planned(
        subject, config_of(GROUPS[1], augmentation), seed=seed, epoch=0, samples=np.arange(4), heights=8, widths=8
    )
    weights = plan.groups[0].blur.astype(np.float64)
    distance = np.arange(weights.shape[-1])
    total = weights[..., 0] + 2 * weights[..., 1:].sum(axis=-1)
    variance = 3 * 2 * (weights * distance**2).sum(axis=-1)
    assert_close(total, np.ones_like(total), precision="float32", what="sum of a blur's weights")
    assert_close(
        variance, np.full_like(variance, top**2), precision="float32", depth=len(distance), what="variance of a blur"
    )
    assert (np.diff(weights, axis=-1) <= 0).all(), "a blur's weights rise with distance"


def picture(seed: int, count: int = 3, side: tuple[int, int] = (12, 14)) -> np.ndarray:
    """Images [count, height, width, 3] of random bytes."""
    return generator(seed).integers(0, 256, (count, *side, 3), dtype=np.uint8)


def viewed(subject: Subject, images: np.ndarray, config: Config, plan: CropPlan) -> list[np.ndarray]:
    """The subject's views, of the shapes that the plan gives them."""
    result = subject.views(images, plan, config)
    assert len(result) == len(plan.groups), f"{len(result)} arrays for {len(plan.groups)} resolutions"
    for group, got in zip(plan.groups, result, strict=True):
        wanted = (math.prod(group.flip.shape), group.size, group.size, 3)
        assert got.shape == wanted, f"views have shape {got.shape}, must be {wanted}"
    return result


def plan_of(images: np.ndarray, config: Config, seed: int, index: np.ndarray | None = None) -> CropPlan:
    """The specification's plan for all images, or for those at `index`."""
    samples = np.arange(len(images) if index is None else len(index))
    _, height, width, _ = images.shape
    return crop_plan(config, seed=seed, epoch=0, samples=samples, heights=height, widths=width, index=index)


@holds("views", config=configs, seed=seeds, share=0.3)
def views_equal_the_specification(subject: Subject, config: Config, seed: int) -> None:
    """Views are the specification's: crop, resize, flip, jitter, grayscale, blur, normalisation, in this order."""
    images = picture(seed)
    plan = plan_of(images, config, seed)
    for actual, expected in zip(
        viewed(subject, images, config, plan), specification.views(images, plan, config), strict=True
    ):
        assert_views_close(actual, expected, precision=subject.precision, what=f"views of side {expected.shape[1]}")


@holds("views", config=plain_configs, seed=seeds, share=0.3)
def every_view_of_a_row_is_of_its_image(subject: Subject, config: Config, seed: int) -> None:
    """Row b of every crop is made from image index[b], whose colour it has if the image has but one."""
    colours = generator(seed).integers(0, 256, (5, 3), dtype=np.uint8)
    images = np.broadcast_to(colours[:, None, None], (5, 12, 14, 3)).copy()
    index = generator(seed + 1).permutation(5)[:3]
    augmentation = config.augmentation
    expected = (colours[index] / 255.0 - augmentation.mean) / augmentation.std
    plan = plan_of(images, config, seed, index)
    for got in viewed(subject, images, config, plan):
        rows = got.reshape(-1, len(index), *got.shape[1:])
        wanted = np.broadcast_to(expected[None, :, None, None], rows.shape)
        assert_views_close(rows, wanted, precision=subject.precision, what="views of images of one colour")


@holds("views", config=configs, seed=seeds, share=0.3)
def nothing_outside_the_box_counts(subject: Subject, config: Config, seed: int) -> None:
    """Pixels outside a view's box do not change it, blur and contrast included; each pixel inside does."""
    images = picture(seed, count=2)
    plan = plan_of(images, config, seed)
    group = plan.groups[0]
    top, left, height, width = group.box[0, 0]
    changed = picture(seed + 1, count=2)
    changed[0, top : top + height, left : left + width] = images[0, top : top + height, left : left + width]
    before, after = (viewed(subject, pixels, config, plan)[0] for pixels in (images, changed))
    assert_same(after[0], before[0], what="a view after changes outside its box")
    assert not np.array_equal(after[1], before[1]), "a view does not change with its image"


@holds("views", config=plain_configs, seed=seeds, share=0.3)
def a_flip_mirrors_left_and_right(subject: Subject, config: Config, seed: int) -> None:
    """The flipped view is the mirrored view."""
    images = picture(seed)
    plan = plan_of(images, config, seed)
    flipped = plan._replace(groups=tuple(group._replace(flip=~group.flip) for group in plan.groups))
    straight, mirrored = (viewed(subject, images, config, one) for one in (plan, flipped))
    for a, b in zip(straight, mirrored, strict=True):
        assert_views_close(b, a[:, :, ::-1], precision=subject.precision, what="flipped views")


@holds("views", seed=seeds, share=0.3)
def a_box_of_the_crops_size_is_copied(subject: Subject, seed: int) -> None:
    """A box as large as the crop gives its pixels, normalised."""
    config = config_of(GROUPS[1], PLAIN)
    images = picture(seed)
    plan = plan_of(images, config, seed)
    size = config.crops[0].size
    corner = generator(seed).integers(0, 12 - size + 1, (*plan.groups[0].flip.shape, 2))
    box = np.concatenate([corner, np.full_like(corner, size)], axis=-1).astype(np.int32)
    plan = plan._replace(groups=(plan.groups[0]._replace(box=box),))
    (got,) = viewed(subject, images, config, plan)
    mean, std = config.augmentation.mean, config.augmentation.std
    expected = [
        (images[row, top : top + size, left : left + size] / 255.0 - mean) / std
        for crop in box
        for row, (top, left, _, _) in enumerate(crop)
    ]
    assert_views_close(got, np.stack(expected), precision=subject.precision, what="copied boxes")
