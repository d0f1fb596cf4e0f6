"""What a crop plan means for pixels: the reference for the views that each framework makes on its device.

Crop, resize and flip in one step, colour jitter, grayscale, blur, normalisation, in this order. Everything is
float64 on [0, 1]; nothing is rounded to bytes in between.
"""

from __future__ import annotations

import numpy as np

from swav_spec.config import Cropped
from swav_spec.multicrop import BRIGHTNESS, CONTRAST, HUE, CropPlan, GroupPlan

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as PIL's "L"


def views(images: np.ndarray, plan: CropPlan, config: Cropped) -> list[np.ndarray]:
    """The views of a batch.

    Args:
        images: [N, H, W, 3] uint8; an image smaller than H x W lies in the top left corner, its boxes inside it.
        plan: see CropPlan.
        config: its mean and std are used.

    Returns:
        One [C*B, size, size, 3] float64 array per run of equal resolution, crop-major, normalised.
    """
    mean, std = np.array(config.augmentation.mean), np.array(config.augmentation.std)
    result = []
    for group in plan.groups:
        crops = [
            (view(images[position], group, crop, row) - mean) / std
            for crop in range(len(group.box))
            for row, position in enumerate(plan.index)
        ]
        result.append(np.stack(crops))
    return result


def view(image: np.ndarray, group: GroupPlan, crop: int, row: int) -> np.ndarray:
    """One view [size, size, 3] in [0, 1], not yet normalised, of an image [H, W, 3] uint8."""
    at = (crop, row)
    top, left, height, width = group.box[at]
    pixels = image[top : top + height, left : left + width] / 255.0
    down = resize_weights(height, group.size)
    across = resize_weights(width, group.size, flip=bool(group.flip[at]))
    pixels = np.einsum("oh,hwc,pw->opc", down, pixels, across, optimize=True)  # two products, not one sum of all terms
    for kind in group.jitter_order[at]:
        pixels = jitter(pixels, int(kind), float(group.jitter_factor[at][kind]))
    if group.grayscale[at]:
        pixels = np.repeat((pixels @ LUMA)[..., None], 3, axis=-1)
    return blur(pixels, group.blur[at].astype(np.float64))


def resize_weights(size: int, out: int, *, flip: bool = False) -> np.ndarray:
    """Weights [out, size] of an antialiased bilinear (triangle filter) resize, from integers.

    With D = 2 max(size, out), the weight of pixel x for output o is max(0, D - |(2x+1) out - (2o+1) size|),
    over its sum over x. A flip reverses the outputs.
    """
    outputs = np.arange(out)[::-1] if flip else np.arange(out)
    distance = np.abs((2 * np.arange(size) + 1) * out - (2 * outputs[:, None] + 1) * size)
    weights = np.maximum(0, 2 * max(size, out) - distance)
    return weights / weights.sum(axis=1, keepdims=True)


def jitter(pixels: np.ndarray, kind: int, factor: float) -> np.ndarray:
    """A blend clip(f x + (1 - f) reference) with black, the mean luma or each pixel's luma; or a hue shift."""
    if kind == HUE:
        return shift_hue(pixels, factor)
    luma = (pixels @ LUMA)[..., None]
    reference = {BRIGHTNESS: 0.0, CONTRAST: luma.mean()}.get(kind, luma)
    return np.clip(factor * pixels + (1 - factor) * reference, 0, 1)


def shift_hue(pixels: np.ndarray, turns: float) -> np.ndarray:
    """Hue moved by a share of a full turn in HSV, saturation and value kept.

    With value V, chroma C and hue h in sixths of a turn, channel n (5, 3, 1 for red, green, blue) is
    V - C max(0, min(k, 4 - k, 1)), k = (n + h) mod 6.
    """
    value = pixels.max(axis=-1)
    chroma = value - pixels.min(axis=-1)
    red, green, blue = np.moveaxis(pixels, -1, 0)
    safe = np.where(chroma == 0, 1.0, chroma)
    hue = np.where(
        value == red,
        (green - blue) / safe,
        np.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = (np.array([5.0, 3.0, 1.0]) + (hue + 6 * turns)[..., None]) % 6
    share = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    return value[..., None] - chroma[..., None] * share


def blur(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Three box passes along each axis; indices are clamped to the image in each pass.

    Args:
        pixels: [H, W, 3].
        weights: [R + 1], weight at distance 0..R.
    """
    for axis in (1, 0):
        size = pixels.shape[axis]
        for _ in range(3):
            blurred = weights[0] * pixels
            for distance in range(1, len(weights)):
                for offset in (-distance, distance):
                    positions = np.clip(np.arange(size) + offset, 0, size - 1)
                    blurred = blurred + weights[distance] * pixels.take(positions, axis=axis)
            pixels = blurred
    return pixels


def normalised(images: np.ndarray, config: Cropped) -> np.ndarray:
    """Whole images [N, H, W, 3] uint8 as the network sees them for embedding: no crop, normalised, float64."""
    mean, std = np.array(config.augmentation.mean), np.array(config.augmentation.std)
    return (images / 255.0 - mean) / std
