"""The crop plan: every random choice that makes the views of a batch, drawn by NumPy (SwAV, section 3.2).

A plan is numbers only. Devices turn it and the images into views without drawing anything, so three
frameworks see the same pixels, and any sample of any epoch can be planned alone. views.py says what a
plan means for pixels.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from swav_spec.config import Augmentation, CropGroup, Cropped
from swav_spec.errors import require
from swav_spec.philox import below, philox4x32, uniform

ATTEMPTS = 10  # tries for a box of the drawn area and ratio before the centre is taken
JITTER_ORDERS = np.array(list(itertools.permutations(range(4))), dtype=np.int32)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# Blocks of four random words per crop: one for each attempt at a box, then these.
_CHANCES, _FACTORS, _ORDER = ATTEMPTS, ATTEMPTS + 1, ATTEMPTS + 2


class GroupPlan(NamedTuple):
    """Choices for one run of C consecutive crops of equal resolution, for B images; every array starts [C, B].

    Attributes:
        size: side of the crops in pixels.
        box: [C, B, 4] int32, top, left, height, width in the image's own pixels, inside the image.
        flip: [C, B] bool, mirrored left to right.
        jitter_order: [C, B, 4] int32, which of brightness 0, contrast 1, saturation 2, hue 3 comes when.
        jitter_factor: [C, B, 4] float32, factor of brightness, contrast, saturation; shift of hue in turns,
            at most half a turn either way. 1, 1, 1, 0 where there is no jitter.
        grayscale: [C, B] bool.
        blur: [C, B, R + 1] float32, weight of the neighbours at distance 0..R in each of three box passes;
            1, 0, ... where there is no blur. R follows from the largest blur radius allowed, and is 0 if none is
            ever drawn.
    """

    size: int
    box: np.ndarray
    flip: np.ndarray
    jitter_order: np.ndarray
    jitter_factor: np.ndarray
    grayscale: np.ndarray
    blur: np.ndarray


class CropPlan(NamedTuple):
    """Choices for one batch.

    Attributes:
        index: [B] int32, position of each image in the array that the views are made from: 0..B-1 when that
            is the batch, the sample's number when it is the whole device-resident set.
        groups: one plan for each run of crops of equal resolution, in view order.
    """

    index: np.ndarray  # type: ignore[assignment]  # shadows tuple.index, which nobody wants of a plan
    groups: tuple[GroupPlan, ...]


def crop_plan(
    config: Cropped,
    *,
    seed: int,
    epoch: int,
    samples: np.ndarray,
    heights: np.ndarray | int,
    widths: np.ndarray | int,
    index: np.ndarray | None = None,
) -> CropPlan:
    """The plan of a batch.

    Args:
        config: its crops and augmentation are used.
        seed: of the run, 0 <= seed < 2^64.
        epoch: 0 <= epoch < 2^32.
        samples: [B] the images' numbers in the data set, each < 2^32; the same number in the same epoch gives
            the same crops, whatever batch it is in.
        heights, widths: of the images in pixels, [B] or one number for all.
        index: see CropPlan; 0..B-1 by default.

    Raises:
        InvalidInput: a number is out of its range.
    """
    samples = np.asarray(samples, dtype=np.int64)
    require(0 <= seed < 2**64, "seed", seed, "in 0..2^64-1")
    require(0 <= epoch < 2**32, "epoch", epoch, "in 0..2^32-1")
    require(samples.ndim == 1 and len(samples) >= 1, "samples' shape", samples.shape, "[B]")
    require(samples.min() >= 0 and samples.max() < 2**32, "samples", samples, "in 0..2^32-1")
    heights = np.broadcast_to(np.asarray(heights, dtype=np.int64), samples.shape)
    widths = np.broadcast_to(np.asarray(widths, dtype=np.int64), samples.shape)
    require(min(heights.min(), widths.min()) >= 1, "image side", min(heights.min(), widths.min()), "at least 1 pixel")

    draw = _Draw(key=(seed & 0xFFFFFFFF, seed >> 32), epoch=epoch, samples=samples)
    plans: list[GroupPlan] = []
    first = 0
    for group in config.crops:
        crops = np.arange(first, first + group.count)[:, None]
        plans.append(_group_plan(group, config.augmentation, draw, crops, heights, widths))
        first += group.count
    runs = [list(run) for _, run in itertools.groupby(plans, key=lambda plan: plan.size)]
    merged = tuple(
        GroupPlan(run[0].size, *(np.concatenate(arrays) for arrays in zip(*(plan[1:] for plan in run), strict=True)))
        for run in runs
    )
    index = np.arange(len(samples)) if index is None else np.asarray(index)
    return CropPlan(index=index.astype(np.int32), groups=merged)


def central_plan(
    size: int,
    heights: np.ndarray,
    widths: np.ndarray,
    *,
    share: float = 224 / 256,
    index: np.ndarray | None = None,
) -> CropPlan:
    """One view of each image's middle, nothing random, as images are evaluated.

    The usual "resize the shorter side to 256, take the central 224" in one step: the central square whose side is
    `share` of the shorter side, resized to `size`.

    Args:
        size: side of the views in pixels.
        heights, widths: [B] of the images in pixels.
        share: of the shorter side, in (0, 1]; 1 takes the largest square.
        index: see CropPlan; 0..B-1 by default.

    Raises:
        InvalidInput: a number is out of its range.
    """
    heights, widths = np.asarray(heights, dtype=np.int64), np.asarray(widths, dtype=np.int64)
    require(size >= 1, "size", size, "at least 1 pixel")
    require(0 < share <= 1, "share", share, "in (0, 1]")
    require(heights.ndim == 1 and heights.shape == widths.shape, "heights' shape", heights.shape, "[B], as of widths")
    require(min(heights.min(), widths.min()) >= 1, "image side", min(heights.min(), widths.min()), "at least 1 pixel")
    side = np.maximum(1, np.rint(share * np.minimum(heights, widths))).astype(np.int64)
    box = np.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=-1).astype(np.int32)
    count = len(heights)
    group = GroupPlan(
        size=size,
        box=box[None],
        flip=np.zeros((1, count), dtype=bool),
        jitter_order=np.tile(JITTER_ORDERS[0], (1, count, 1)),
        jitter_factor=np.tile(np.array([1, 1, 1, 0], dtype=np.float32), (1, count, 1)),
        grayscale=np.zeros((1, count), dtype=bool),
        blur=blur_weights(np.zeros((1, count)), 0).astype(np.float32),
    )
    index = np.arange(count) if index is None else np.asarray(index)
    return CropPlan(index=index.astype(np.int32), groups=(group,))


class _Draw(NamedTuple):
    """Random words at (block, crop, sample, epoch)."""

    key: tuple[int, int]
    epoch: int
    samples: np.ndarray

    def words(self, block: int, crops: np.ndarray) -> tuple[np.ndarray, ...]:
        return philox4x32((block, crops, self.samples, self.epoch), self.key)


def _group_plan(
    group: CropGroup,
    augmentation: Augmentation,
    draw: _Draw,
    crops: np.ndarray,
    heights: np.ndarray,
    widths: np.ndarray,
) -> GroupPlan:
    shape = (group.count, len(draw.samples))
    chances = [uniform(words) for words in draw.words(_CHANCES, crops)]
    factors = [uniform(words) for words in draw.words(_FACTORS, crops)]
    order, radius, _, _ = draw.words(_ORDER, crops)

    jittered = chances[1] < augmentation.jitter
    factor = np.empty((*shape, 4), dtype=np.float64)
    for position, spread in enumerate((augmentation.brightness, augmentation.contrast, augmentation.saturation)):
        factor[..., position] = np.where(jittered, _between(factors[position], max(0.0, 1 - spread), 1 + spread), 1.0)
    factor[..., HUE] = np.where(jittered, _between(factors[HUE], -augmentation.hue, augmentation.hue), 0.0)

    low, high = augmentation.blur_radius
    blurred = chances[3] < augmentation.blur
    blur_radius = np.where(blurred, _between(uniform(radius), low, high), 0.0)
    return GroupPlan(
        size=group.size,
        box=_boxes(group, augmentation.ratio, draw, crops, heights, widths),
        flip=chances[0] < augmentation.flip,
        jitter_order=JITTER_ORDERS[below(order, len(JITTER_ORDERS))],
        jitter_factor=factor.astype(np.float32),
        grayscale=chances[2] < augmentation.grayscale,
        blur=blur_weights(blur_radius, blur_reach(high) if augmentation.blur > 0 else 0).astype(np.float32),
    )


def _between(unit: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * unit


def _boxes(
    group: CropGroup,
    ratio: tuple[float, float],
    draw: _Draw,
    crops: np.ndarray,
    heights: np.ndarray,
    widths: np.ndarray,
) -> np.ndarray:
    """Random resized crop: area uniform in scale, ratio uniform on a log scale, position uniform.

    Up to ATTEMPTS draws until the box fits; then the largest centred box of an allowed ratio.
    """
    shape = (group.count, len(draw.samples))
    heights, widths = np.broadcast_to(heights, shape), np.broadcast_to(widths, shape)
    boxes = _central_boxes(ratio, heights, widths)
    missing = np.ones(shape, dtype=bool)
    rows, columns = np.nonzero(missing)
    for attempt in range(ATTEMPTS):
        local = draw._replace(samples=draw.samples[columns])
        area, aspect, top, left = local.words(attempt, crops[rows, 0])
        height, width = heights[rows, columns], widths[rows, columns]
        target = height * width * _between(uniform(area), *group.scale)
        aspect = np.exp(_between(uniform(aspect), math.log(ratio[0]), math.log(ratio[1])))
        box_width = np.rint(np.sqrt(target * aspect)).astype(np.int64)
        box_height = np.rint(np.sqrt(target / aspect)).astype(np.int64)
        fits = (box_width > 0) & (box_width <= width) & (box_height > 0) & (box_height <= height)
        limit_top = np.where(fits, height - box_height + 1, 1)
        limit_left = np.where(fits, width - box_width + 1, 1)
        drawn = np.stack([below(top, limit_top), below(left, limit_left), box_height, box_width], axis=-1)
        boxes[rows[fits], columns[fits]] = drawn[fits]
        rows, columns = rows[~fits], columns[~fits]
        if len(rows) == 0:
            break
    return boxes


def _central_boxes(ratio: tuple[float, float], heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    aspect = widths / heights
    box_width = np.where(aspect > ratio[1], np.rint(heights * ratio[1]), widths).astype(np.int64)
    box_height = np.where(aspect < ratio[0], np.rint(widths / ratio[0]), heights).astype(np.int64)
    top, left = (heights - box_height) // 2, (widths - box_width) // 2
    return np.stack([top, left, box_height, box_width], axis=-1).astype(np.int32)


def blur_reach(largest_radius: float) -> int:
    """R: the farthest neighbour that a box pass of PIL's Gaussian blur touches, for radii up to this one."""
    sigma2 = largest_radius**2 / 3
    return math.floor((math.sqrt(12 * sigma2 + 1) - 1) / 2) + 1


def blur_weights(radius: np.ndarray, reach: int) -> np.ndarray:
    """Weights of one of three equal box passes that approximate a Gaussian (Gwosdek et al. 2011), as PIL does.

    With s2 = radius^2 / 3 and whole box radius l = floor((sqrt(12 s2 + 1) - 1) / 2), the extended box has
    radius l + a: weight 1 / (2 (l + a) + 1) up to distance l, and a times that one pixel beyond.

    Args:
        radius: [...] standard deviation in pixels; 0 leaves the image as it is.
        reach: R from `blur_reach`.

    Returns:
        [..., R + 1] float64, weights at distance 0..R; weight 0 + twice the rest is 1.
    """
    s2 = np.square(np.asarray(radius, dtype=np.float64))[..., None] / 3
    whole = np.floor((np.sqrt(12 * s2 + 1) - 1) / 2)
    fraction = (2 * whole + 1) * (whole * (whole + 1) - 3 * s2) / (6 * (s2 - np.square(whole + 1)))
    distance = np.arange(reach + 1)
    inside = np.where(distance <= whole, 1.0, np.where(distance == whole + 1, fraction, 0.0))
    return inside / (2 * (whole + fraction) + 1)
