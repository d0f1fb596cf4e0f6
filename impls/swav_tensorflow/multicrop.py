"""Pixels to views on the device, as swav_spec.views defines them (SwAV, section 3.2 and appendix A.1).

Crop, resize and flip read at most 2 ceil(side / out) + 1 taps per output and axis, with weights from integers; then
colour jitter, grayscale, blur and normalisation. Products are multiply-adds, never matrix products, so that no
TF32 switch reaches them, and all shapes are static, so that XLA takes them.

Between the resize and the end views lie as [3, side, side, N]: what belongs to a sample then broadcasts along the
last axis and what belongs to a channel along the first, which Eigen does at full speed, and a shift of the blur is a
copy of large blocks.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from swav_spec.config import Config
from swav_spec.errors import require
from swav_spec.multicrop import CONTRAST, HUE, SATURATION, CropPlan, GroupPlan
from swav_spec.views import LUMA

BOX_PASSES = 3  # that make a Gaussian
BLENDS = 3  # colour changes that are blends: brightness, contrast, saturation
#: Rows of a group's numbers: box, flip, blends before and after the hue, hue, grayscale, R + 1 weights of the blur.
_TOP, _LEFT, _HEIGHT, _WIDTH, _FLIP = range(5)
_BLEND = 5
_HUE = _BLEND + 2 * BLENDS * 3
_GRAYSCALE = _HUE + 1
_BLUR = _HUE + 2


class PlanArrays(NamedTuple):
    """A crop plan as few arrays, one transfer each.

    Attributes:
        index: [B] int64.
        groups: [P, C*B] float per run of equal resolution, crop-major; integers among them are exact below 2^24.
    """

    index: np.ndarray
    groups: tuple[np.ndarray, ...]


def plan_arrays(plan: CropPlan, config: Config, dtype: np.dtype) -> PlanArrays:
    """The plan laid out for the device.

    Raises:
        InvalidInput: the plan is not one of this config's crops.
    """
    found = tuple((group.size, len(group.box)) for group in plan.groups)
    require(found == config.resolutions, "plan's crops (side, count)", found, f"the config's {config.resolutions}")
    return PlanArrays(plan.index.astype(np.int64), tuple(_group_array(group).astype(dtype) for group in plan.groups))


def _group_array(group: GroupPlan) -> np.ndarray:
    """The jitter becomes three blends, the hue, and three blends again; those not in the drawn order change nothing.

    A blend clip(f x + (1 - f) reference) is three numbers: f, and (1 - f) where the reference is the mean luma
    (contrast), and where it is the luma (saturation). The hue then costs once, not once for each position.
    """
    order = group.jitter_order
    factors = np.take_along_axis(group.jitter_factor, order, axis=-1).astype(np.float64)
    hue_at = np.argmax(order == HUE, axis=-1)
    rows = [*np.moveaxis(group.box, -1, 0), group.flip]
    for positions, applies in ((range(BLENDS), np.less), (range(1, BLENDS + 1), np.greater)):
        for position in positions:
            kind, factor = order[..., position], np.where(applies(position, hue_at), factors[..., position], 1.0)
            rows += [factor, (1 - factor) * (kind == CONTRAST), (1 - factor) * (kind == SATURATION)]
    rows += [group.jitter_factor[..., HUE], group.grayscale, *np.moveaxis(group.blur, -1, 0)]
    return np.stack([np.reshape(row, -1) for row in rows]).astype(np.float64)


def views(images: tf.Tensor, plan: PlanArrays, config: Config, dtype: tf.DType) -> list[tf.Tensor]:
    """The views of a batch.

    Args:
        images: [M, H, W, 3] uint8; an image smaller than H x W lies in the top left corner.
        plan: from `plan_arrays`, as tensors.
        config: its crops, mean and std are used.
        dtype: of the views, float32 or float64.

    Returns:
        One [C*B, side, side, 3] tensor per run of equal resolution, crop-major, normalised.
    """
    result = []
    mean = tf.reshape(tf.constant(config.augmentation.mean, dtype), [3, 1, 1, 1])
    std = tf.reshape(tf.constant(config.augmentation.std, dtype), [3, 1, 1, 1])
    for (side, count), group in zip(config.resolutions, plan.groups, strict=True):
        numbers = tf.unstack(group)
        pixels = _resized_crops(images, tf.tile(plan.index, [count]), numbers, side, dtype)
        for slot in range(_BLEND, _BLEND + 3 * BLENDS, 3):
            pixels = _blend(pixels, *numbers[slot : slot + 3])
        pixels = _shift_hue(pixels, numbers[_HUE])
        for slot in range(_BLEND + 3 * BLENDS, _HUE, 3):
            pixels = _blend(pixels, *numbers[slot : slot + 3])
        pixels = tf.where(numbers[_GRAYSCALE] > 0, _luma(pixels)[None], pixels)
        pixels = _blur(pixels, numbers[_BLUR:])
        result.append(tf.transpose((pixels - mean) / std, [3, 1, 2, 0]))
    return result


def normalised(images: tf.Tensor, config: Config, dtype: tf.DType) -> tf.Tensor:
    """Whole images [N, H, W, 3] uint8 as the network sees them for embedding: no crop, normalised."""
    mean, std = tf.constant(config.augmentation.mean, dtype), tf.constant(config.augmentation.std, dtype)
    return (tf.cast(images, dtype) / 255 - mean) / std


def _resized_crops(images: tf.Tensor, index: tf.Tensor, numbers: list[tf.Tensor], side: int, dtype) -> tf.Tensor:
    """[3, side, side, N] in [0, 1]: the box of each image index[n], resized, mirrored where the plan says so."""
    samples = index.shape[0]
    _, height, width, channels = images.shape
    position, weight = _taps(numbers[_TOP], numbers[_HEIGHT], None, side, height, dtype)
    rows = tf.reshape(images, [-1, width * channels])
    rows = _gather_taps(_as_words(rows), index * height, position, weight / 255, dtype)
    columns = tf.transpose(tf.reshape(rows, [samples, side, width, channels]), [0, 2, 1, 3])
    columns = tf.reshape(columns, [samples * width, side * channels])
    position, weight = _taps(numbers[_LEFT], numbers[_WIDTH], numbers[_FLIP], side, width, dtype)
    first = tf.constant(np.arange(samples, dtype=np.int64) * width)
    pixels = _gather_taps(columns, first, position, weight, dtype)
    return tf.transpose(tf.reshape(pixels, [samples, side, side, channels]), [3, 2, 1, 0])


def _taps(start, size, flip, side: int, limit: int, dtype) -> tuple[tf.Tensor, tf.Tensor]:
    """Positions [T, N, side] and weights [T, N, side] that resize `size` pixels from `start` on to `side` pixels.

    With D = 2 max(size, side), the weight of pixel x for output o is max(0, D - |(2x+1) side - (2o+1) size|), over
    its sum; T follows from the image's static side `limit`. Everything before the sum is an integer that the
    floating type holds exactly; the one tap more than needed covers the rounding of the first position.
    """
    exact = dtype if 8 * max(limit, side) * side < 2**24 else tf.float64
    start, size = (tf.cast(value, exact)[:, None] for value in (start, size))
    output = tf.constant(np.arange(side), exact)
    if flip is not None:
        output = tf.where(flip[:, None] > 0, side - 1 - output, output)
    centre = (2 * output + 1) * size
    reach = 2 * tf.maximum(size, side)
    first = tf.floor((centre - reach - side) / (2 * side)) + 1
    taps = 2 * math.ceil(limit / side) + 1
    pixel = first + tf.constant(np.arange(taps)[:, None, None], exact)
    weight = tf.maximum(reach - tf.abs((2 * pixel + 1) * side - centre), 0)
    weight = tf.where((pixel >= 0) & (pixel < size), weight, tf.zeros_like(weight))
    weight /= tf.reduce_sum(weight, axis=0)
    return tf.cast(start + tf.clip_by_value(pixel, 0, size - 1), tf.int64), tf.cast(weight, dtype)


def _gather_taps(rows: tf.Tensor, first: tf.Tensor, position: tf.Tensor, weight: tf.Tensor, dtype) -> tf.Tensor:
    """[N * outputs, row]: for each output the weighted sum of the rows first[n] + position[t, n, output] over t.

    Block by block of samples in a loop, because XLA would fuse this with what made `rows` and compute that anew for
    every tap of every output: on a CPU all views then took four times as long. Inside a block the taps do fuse.
    """
    taps, samples, outputs = position.shape
    blocks = _blocks(samples)
    size = samples // blocks * outputs
    position = tf.reshape(position + first[:, None], [taps, blocks, size])
    weight = tf.reshape(weight, [taps, blocks, size, 1])

    def block(number, sums):
        total = None
        for tap in range(taps):
            pixels = tf.gather(rows, position[tap, number])
            if pixels.dtype == tf.int32:
                pixels = tf.reshape(tf.bitcast(pixels, tf.uint8), [size, -1])
            product = weight[tap, number] * tf.cast(pixels, dtype)
            total = product if total is None else total + product
        return number + 1, sums.write(number, total)

    sums = tf.TensorArray(dtype, blocks)
    _, sums = tf.while_loop(lambda number, _: number < blocks, block, (0, sums))
    return tf.reshape(sums.stack(), [samples * outputs, -1])


def _blocks(samples: int) -> int:
    """The fewest equal blocks that the samples fall into, but two at least: XLA unrolls a loop of one."""
    return next((blocks for blocks in range(2, samples) if samples % blocks == 0), samples)


def _as_words(rows: tf.Tensor) -> tf.Tensor:
    """uint8 rows as int32 words where they divide evenly: TensorFlow has no kernel that gathers bytes on a GPU."""
    if rows.shape[1] % 4:
        return rows
    return tf.bitcast(tf.reshape(rows, [-1, rows.shape[1] // 4, 4]), tf.int32)


def _luma(pixels: tf.Tensor) -> tf.Tensor:
    red, green, blue = tf.unstack(pixels)
    return float(LUMA[0]) * red + float(LUMA[1]) * green + float(LUMA[2]) * blue


def _blend(pixels: tf.Tensor, factor: tf.Tensor, of_mean: tf.Tensor, of_luma: tf.Tensor) -> tf.Tensor:
    """clip(factor x + of_mean * mean luma + of_luma * luma)."""
    luma = _luma(pixels)
    # One axis after the other: TensorFlow adds up one by one, and rounding errors grow with the length of a sum.
    mean = tf.reduce_mean(tf.reduce_mean(luma, axis=1), axis=0)
    reference = of_mean * mean + of_luma * luma
    return tf.clip_by_value(factor * pixels + reference, 0, 1)


def _shift_hue(pixels: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """Hue moved by a share of a full turn in HSV, saturation and value kept (swav_spec.views.shift_hue)."""
    red, green, blue = tf.unstack(pixels)
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    safe = tf.where(chroma > 0, chroma, tf.ones_like(chroma))
    # Red first where several channels are the largest, as in the specification.
    is_red, is_green = value <= red, value <= green
    difference = tf.where(is_red, green - blue, tf.where(is_green, blue - red, red - green))
    zero, two, four = tf.unstack(tf.constant([0, 2, 4], pixels.dtype))
    hue = difference / safe + tf.where(is_red, zero, tf.where(is_green, two, four)) + 6 * turns
    sector = tf.reshape(tf.constant([5, 3, 1], pixels.dtype), [3, 1, 1, 1]) + hue
    # Modulo 6 by floor, which Eigen has in vectors; at a rounded multiple of 6 the share is 0 on both sides.
    sector -= 6 * tf.floor(sector / 6)
    return value - chroma * tf.clip_by_value(tf.minimum(sector, 4 - sector), 0, 1)


def _blur(pixels: tf.Tensor, weights: list[tf.Tensor]) -> tf.Tensor:
    """Three box passes along each axis of [3, H, W, N]; indices are clamped to the image in each pass.

    Args:
        weights: [N] for distance 0, 1, ... R.
    """
    reach = len(weights) - 1
    for axis in (2, 1):
        size = pixels.shape[axis]

        def box_pass(count, pixels, axis=axis, size=size):
            first, last = _slice(pixels, axis, 0, 1), _slice(pixels, axis, size - 1, 1)
            padded = tf.concat([first] * reach + [pixels] + [last] * reach, axis)
            blurred = weights[0] * pixels
            for distance in range(1, reach + 1):
                before, after = (_slice(padded, axis, reach + offset, size) for offset in (-distance, distance))
                blurred += weights[distance] * (before + after)
            return count + 1, blurred

        # A loop, because XLA would fuse the passes and compute each pixel of one anew for every pixel of the next.
        # Without maximum_iterations, which would hide from XLA how many there are: a GPU would ask the host each time.
        _, pixels = tf.while_loop(lambda count, _: count < BOX_PASSES, box_pass, (0, pixels))
    return pixels


def _slice(pixels: tf.Tensor, axis: int, start: int, size: int) -> tf.Tensor:
    where = [slice(None)] * 4
    where[axis] = slice(start, start + size)
    return pixels[tuple(where)]
