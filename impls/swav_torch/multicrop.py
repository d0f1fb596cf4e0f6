"""Pixels to views, on the device: what swav_spec.views defines, for all crops of a resolution at once.

Resizing adds up a few weighted neighbours (taps) per axis with multiply-add, never a matrix product, so that no TF32
switch reaches it. Colours are three planes [crops, width, height] each, which vectorise; the crops come out as
[crops, height, width, 3].
"""

from __future__ import annotations

import numpy as np
import torch

from swav_spec.errors import require
from swav_spec.multicrop import CONTRAST, HUE, SATURATION, CropPlan, GroupPlan
from swav_spec.views import LUMA

RED, GREEN, BLUE = (float(share) for share in LUMA)
# Columns of a packed plan: box, flip, order of the jitter, its factors, grayscale, image; then the blur's weights.
_FLIP, _ORDER, _FACTOR, _GRAYSCALE, _IMAGE, _BLUR = 4, 5, 9, 13, 14, 15


def check_images(images: torch.Tensor) -> None:
    """Raises InvalidInput if images have another shape or type than [N, H, W, 3] uint8."""
    good = images.ndim == 4 and images.shape[-1] == 3 and images.dtype == torch.uint8
    require(good, "images", (tuple(images.shape), str(images.dtype)), "[N, height, width, 3] uint8")


def check_plan(images: torch.Tensor, plan: CropPlan) -> None:
    """Raises InvalidInput if the plan points outside the images."""
    count, height, width, _ = images.shape
    lowest, highest = int(plan.index.min()), int(plan.index.max())
    require(lowest >= 0 and highest < count, "plan.index", (lowest, highest), f"in 0..{count - 1}")
    for group in plan.groups:
        top, left, tall, wide = np.moveaxis(group.box, -1, 0)
        boxes = min(top.min(), left.min()) >= 0 and min(tall.min(), wide.min()) >= 1
        boxes = boxes and (top + tall).max() <= height and (left + wide).max() <= width
        require(bool(boxes), "plan boxes", f"of size {group.size}", f"inside the images ({height} x {width})")


def pack(group: GroupPlan, index: np.ndarray) -> np.ndarray:
    """A group's plan as one [C*B, columns] int32 array, floats by their bits: one copy to the device."""
    crops, batch = group.box.shape[:2]
    columns = [
        group.box,
        group.flip[..., None],
        group.jitter_order,
        np.ascontiguousarray(group.jitter_factor, dtype=np.float32).view(np.int32),
        group.grayscale[..., None],
        np.broadcast_to(index[:, None], (crops, batch, 1)),
        np.ascontiguousarray(group.blur, dtype=np.float32).view(np.int32),
    ]
    return np.concatenate(columns, axis=-1, dtype=np.int32).reshape(crops * batch, -1)


def blurred_crops(group: GroupPlan) -> np.ndarray:
    """Positions of the crops [C*B] that the blur changes."""
    return np.flatnonzero(group.blur[..., 1:].any(axis=-1))


def most_taps(group: GroupPlan) -> tuple[int, int]:
    """Down and across: at most ceil(2 max(side, out) / out) pixels lie inside the triangle of an output."""
    tall, wide = (int(group.box[..., column].max()) for column in (2, 3))
    return tuple(-(-2 * max(side, group.size) // group.size) for side in (tall, wide))


def make_views(
    images: torch.Tensor,
    plan: torch.Tensor,
    *,
    size: int,
    taps: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: torch.dtype,
    blurred: torch.Tensor | None = None,
) -> torch.Tensor:
    """Views of one resolution.

    Args:
        images: [N, H, W, 3] uint8.
        plan: [C*B, columns] int32 from `pack`.
        size: side of the views.
        taps: most pixels that an output depends on, down and across.
        mean, std: per channel, of pixels in [0, 1].
        dtype: to compute in.
        blurred: which crops to blur, where that is known; otherwise all go through it, some unchanged.

    Returns:
        [C*B, size, size, 3], crop-major, normalised.
    """
    floats = plan.view(torch.float32)
    factor = floats[:, _FACTOR:_GRAYSCALE].to(dtype)
    pixels = resize(images, plan, size, taps, dtype)
    pixels = jitter(pixels, plan[:, _ORDER:_FACTOR].long(), factor)
    gray = plan[:, _GRAYSCALE, None, None] != 0
    pixels = torch.where(gray, luma(pixels), pixels)
    blur_weights = floats[:, _BLUR:].to(dtype)
    if blurred is None:
        pixels = blur(pixels, blur_weights)
    else:
        some = blur(pixels.index_select(1, blurred), blur_weights.index_select(0, blurred))
        pixels = pixels.index_copy(1, blurred, some)
    planes = [(plane - m) / s for plane, m, s in zip(pixels, mean, std, strict=True)]
    return torch.stack(planes, dim=-1).transpose(1, 2).contiguous()


def resize(
    images: torch.Tensor, plan: torch.Tensor, size: int, taps: tuple[int, int], dtype: torch.dtype
) -> torch.Tensor:
    """Crop, resize and flip: planes [3, C*B, size (across), size (down)] in [0, 1]."""
    count, height, width, _ = images.shape
    top, left, tall, wide, flip = plan[:, : _FLIP + 1].long().unbind(dim=1)
    image = plan[:, _IMAGE].long()
    # Down: whole rows of the images are gathered.
    weights, rows = axis_taps(tall, size, taps[0], torch.zeros_like(flip), dtype)
    rows = rows + (image * height + top)[:, None, None]
    lines = images.reshape(count * height, width * 3)
    down = _weighted_rows(lines, rows, weights / 255)
    # Across: transposed, so that this axis too gathers whole rows.
    columns_first = down.view(-1, size, width, 3).permute(3, 0, 2, 1).reshape(-1, size)
    weights, columns = axis_taps(wide, size, taps[1], flip, dtype)
    first = torch.arange(3 * len(wide), device=plan.device).view(3, -1) * width
    columns = columns + left[:, None, None] + first[:, :, None, None]
    weights = weights.expand(3, -1, -1, -1)
    across = _weighted_rows(columns_first, columns.flatten(0, 1), weights.flatten(0, 1))
    return across.view(3, -1, size, size)


def axis_taps(
    side: torch.Tensor, size: int, taps: int, flip: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and pixels of every output along one axis, from integers (swav_spec.views.resize_weights).

    With D = 2 max(side, size), output o takes pixels x with |(2x+1) size - (2o+1) side| < D, weighted by the gap.

    Args:
        side: [n] of each box in pixels.
        size: number of outputs.
        taps: most pixels of an output.
        flip: [n], non-zero where the outputs are reversed.
        dtype: of the weights.

    Returns:
        Weights [n, size, taps] summing to 1, and pixels [n, size, taps], counted from the box's first; a pixel
        outside the box weighs nothing and is moved into it.
    """
    output = torch.arange(size, device=side.device).expand(len(side), size)
    output = torch.where(flip[:, None] != 0, size - 1 - output, output)
    side = side[:, None]
    reach = 2 * side.clamp_min(size)
    centre = (2 * output + 1) * side
    first = torch.div(centre - reach - size, 2 * size, rounding_mode="floor") + 1
    pixel = first[..., None] + torch.arange(taps, device=side.device)
    gap = reach[..., None] - ((2 * pixel + 1) * size - centre[..., None]).abs()
    inside = (pixel >= 0) & (pixel < side[..., None])
    weight = torch.where(inside, gap.clamp_min(0), 0)
    weights = weight.to(dtype) / weight.sum(dim=-1, keepdim=True).to(dtype)
    return weights, torch.minimum(pixel.clamp_min(0), side[..., None] - 1)


def _weighted_rows(table: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum over taps of weights [n, size, taps] times rows [n, size, taps] of the table: [n * size, columns]."""
    total: torch.Tensor | None = None
    for row, weight in zip(rows.flatten(0, 1).unbind(dim=1), weights.flatten(0, 1).split(1, dim=1), strict=True):
        taken = table.index_select(0, row).to(weights.dtype)
        total = taken * weight if total is None else torch.addcmul(total, taken, weight)
    return total


def luma(pixels: torch.Tensor) -> torch.Tensor:
    """Brightness [n, ...] of planes [3, n, ...]."""
    red, green, blue = pixels
    return torch.add(torch.add(RED * red, green, alpha=GREEN), blue, alpha=BLUE)


def jitter(pixels: torch.Tensor, order: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast, saturation and hue in each sample's own order.

    The costly hue shift comes once for all samples, with three places for blends before it and three after; a blend
    that a sample has on the other side has the factor 1 here, which changes nothing.

    Args:
        pixels: [3, n, ...] in [0, 1].
        order: [n, 4] which change comes when.
        factor: [n, 4] by kind.
    """
    hue_place = (order == HUE).int().argmax(dim=1, keepdim=True)
    place = torch.arange(3, device=order.device)
    for before in (True, False):
        source = place.expand(len(order), 3) if before else hue_place + 1 + place
        active = source < (hue_place if before else 4)
        kind = order.gather(1, source.clamp_max(3))
        strength = torch.where(active, factor.gather(1, kind), 1.0)
        for blend_kind, blend_factor in zip(kind.unbind(dim=1), strength.unbind(dim=1), strict=True):
            pixels = blend(pixels, blend_kind, blend_factor)
        if before:
            pixels = shift_hue(pixels, factor[:, HUE])
    return pixels


def blend(pixels: torch.Tensor, kind: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """clip(f x + (1 - f) reference), the reference being black, the mean luma or the luma, by kind."""
    kind, factor = kind[:, None, None], factor[:, None, None]
    gray = luma(pixels)
    mean = gray.mean(dim=(1, 2), keepdim=True)
    rest = 1 - factor
    reference = torch.addcmul(rest * mean * (kind == CONTRAST), gray, rest * (kind == SATURATION))
    return torch.addcmul(reference, pixels, factor).clamp_(0, 1)


def shift_hue(pixels: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Hue moved by a share of a full turn in HSV, saturation and value kept (swav_spec.views.shift_hue).

    min(k, 4 - k) with k = (n + h) mod 6 is written 2 - |k - 2|, with k - 2 brought into [-3, 3] by rounding.
    """
    red, green, blue = pixels
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    safe = torch.where(chroma == 0, 1.0, chroma)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * turns[:, None, None]
    channels = []
    for number in (5, 3, 1):
        sector = hue + (number - 2)
        sector = sector - 6 * (sector / 6).round()
        channels.append(value - chroma * (2 - sector.abs()).clamp(0, 1))
    return torch.stack(channels)


def blur(pixels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Three box passes along each axis; indices are clamped to the view in each pass.

    Args:
        pixels: [3, n, size, size].
        weights: [n, R + 1], weight at distance 0..R.
    """
    size = pixels.shape[-1]
    shares = weights[:, :, None, None].unbind(dim=1)
    reach = len(shares) - 1
    for axis in (2, 3):
        for _ in range(3):
            before, after = pixels.narrow(axis, 0, 1), pixels.narrow(axis, size - 1, 1)
            padded = torch.cat([*[before] * reach, pixels, *[after] * reach], dim=axis)
            blurred = pixels * shares[0]
            for distance, share in enumerate(shares[1:], start=1):
                left, right = (padded.narrow(axis, reach + offset, size) for offset in (-distance, distance))
                blurred = torch.addcmul(blurred, left + right, share)
            pixels = blurred
    return pixels


def normalised(
    images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype
) -> torch.Tensor:
    """Whole images [N, H, W, 3] uint8 as the network sees them for embedding: no crop, normalised."""
    planes = [(plane.to(dtype) / 255 - m) / s for plane, m, s in zip(images.unbind(dim=-1), mean, std, strict=True)]
    return torch.stack(planes, dim=-1)
