"""Pixels to views on the device, as swav_spec.views defines them: crop, jitter, grayscale, blur, normalise.

All choices come with the plan; nothing is drawn here. Inside, pixels are [crops, 3, height, width]: with the channels
apart, everything after the resize is elementwise over long rows. No dot product is used, so no TF32 setting reaches
a pixel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from swav_spec.errors import require
from swav_spec.multicrop import CONTRAST, HUE, SATURATION, CropPlan, GroupPlan
from swav_spec.views import LUMA


def views(images: Array, plan: CropPlan, sizes: tuple[int, ...], mean: Array, std: Array) -> list[Array]:
    """The views of a batch, in the dtype of `mean`.

    Args:
        images: [N, H, W, 3] uint8.
        plan: its `size`s are ignored in favour of `sizes`, which are static.
        sizes: side of the crops of each run of equal resolution.
        mean, std: [3], of pixels in [0, 1].

    Returns:
        One [C*B, size, size, 3] array per run of equal resolution, crop-major.
    """
    return [_group_views(images, plan.index, *item, mean, std) for item in zip(plan.groups, sizes, strict=True)]


def check_plan(plan: CropPlan, sizes: tuple[int, ...], crops: tuple[int, ...], batch: int) -> None:
    """Raises InvalidInput if a plan was made for other crops or another batch."""
    found = tuple((group.size, *group.box.shape[:2]) for group in plan.groups)
    wanted = tuple((size, count, batch) for size, count in zip(sizes, crops, strict=True))
    require(found == wanted and len(plan.index) == batch, "plan's (size, crops, images)", found, f"{wanted}")


def normalised(images: Array, mean: Array, std: Array) -> Array:
    """Whole images [N, H, W, 3] uint8 as the network sees them for embedding: no crop, normalised."""
    return (images.astype(mean.dtype) / 255 - mean) / std


def _group_views(images: Array, index: Array, group: GroupPlan, size: int, mean: Array, std: Array) -> Array:
    dtype = mean.dtype
    box, flip, order, factor, grayscale, blur_weights = (x.reshape(-1, *x.shape[2:]) for x in group[1:])
    image = jnp.tile(index, group.box.shape[0])
    pixels = _crop(images, image, box, flip, size, dtype)
    pixels = _jitter(pixels, order, factor.astype(dtype))
    pixels = jnp.where(_per_crop(grayscale), _luma(pixels), pixels)
    blur_weights = blur_weights.astype(dtype)
    for axis in (3, 2):
        pixels = lax.fori_loop(0, 3, lambda _, x, axis=axis: _box_pass(x, blur_weights, axis), pixels)
    return (pixels.transpose(0, 2, 3, 1) - mean) / std


def _crop(images: Array, image: Array, box: Array, flip: Array, size: int, dtype) -> Array:
    """Boxes [n, 4] in the images [n] of the set [N, H, W, 3], resized to [n, 3, size, size] in [0, 1].

    Whole rows are gathered, first of the images and then, transposed, of what came of them: on a CPU a third less time
    than taking single pixels.
    """
    count, height, width, _ = images.shape
    n = len(box)
    outputs = jnp.arange(size, dtype=jnp.int32)
    rows, down = jax.vmap(lambda box: _taps(outputs, box[0], box[2], height, dtype))(box)
    columns, across = jax.vmap(
        lambda box, flip: _taps(jnp.where(flip, outputs[::-1], outputs), box[1], box[3], width, dtype)
    )(box, flip)
    pixels = _weighted_rows(images.reshape(count * height, width * 3), rows + image[:, None, None] * height, down)
    pixels = pixels.reshape(n, size, width, 3).transpose(0, 2, 3, 1).reshape(n * width, 3 * size)
    first = jnp.arange(n, dtype=jnp.int32)[:, None, None] * width
    pixels = _weighted_rows(pixels, columns + first, across / 255)
    return pixels.reshape(n, size, 3, size).transpose(0, 2, 3, 1)


def _weighted_rows(table: Array, rows: Array, weights: Array) -> Array:
    """Sum over taps of weights [n, out, taps] times the table's rows [n, out, taps]: [n, out, columns].

    Block by block of samples in a loop, because XLA would fuse this with what made the table and compute that anew for
    every tap of every output: on a CPU all views then took twice as long. Inside a block the taps do fuse.
    """
    n, out, taps = rows.shape
    blocks = _blocks(n)

    def block(given: tuple[Array, Array]) -> Array:
        rows, weights = given

        def tap(number: int) -> Array:
            taken = jnp.take(table, rows[:, :, number], axis=0, mode="clip")
            return taken.astype(weights.dtype) * weights[:, :, number, None]

        return functools.reduce(jnp.add, (tap(number) for number in range(taps)))

    shape = (blocks, n // blocks, out, taps)
    return lax.map(block, (rows.reshape(shape), weights.reshape(shape))).reshape(n, out, -1)


def _blocks(n: int) -> int:
    """The fewest equal blocks that n samples fall into, but two at least: XLA unrolls a loop of one."""
    return next((blocks for blocks in range(2, n) if n % blocks == 0), n)


def _taps(outputs: Array, start: Array, length: Array, side: int, dtype) -> tuple[Array, Array]:
    """Pixels and weights of each output of an antialiased bilinear resize; swav_spec.views.resize_weights.

    With D = 2 max(length, out), pixel x has weight max(0, D - |(2x+1) out - (2o+1) length|) over the sum of them.
    At most ceil(2 max(side, out) / out) pixels in a row have one, where `side` bounds the length.

    Args:
        outputs: [out] int32, o = 0..out-1, reversed for a flip.
        start, length: of the box along this axis; traced integers.
        side: of the image along this axis; static, so that the number of taps is.
        dtype: of the weights.

    Returns:
        [out, taps] int32 positions, clamped into the image (with weight 0 outside the box), and [out, taps] weights.
    """
    out = len(outputs)
    reach = 2 * jnp.maximum(length, out)
    centre = (2 * outputs[:, None] + 1) * length
    first = (centre - reach - out) // (2 * out) + 1
    pixels = first + jnp.arange(-(-2 * max(side, out) // out), dtype=jnp.int32)
    weights = jnp.maximum(0, reach - jnp.abs((2 * pixels + 1) * out - centre))
    weights = jnp.where((pixels >= 0) & (pixels < length), weights, 0)
    positions = start + jnp.clip(pixels, 0, length - 1)
    return positions, weights.astype(dtype) / weights.sum(axis=1, keepdims=True).astype(dtype)


def _jitter(pixels: Array, order: Array, factors: Array) -> Array:
    """All colour changes, in each crop's own order (swav_spec.views.jitter).

    The costly hue shift comes once for all crops, with three places for blends before it and three after; a blend that
    a crop has on the other side has the factor 1 here, which changes nothing.

    Args:
        pixels: [n, 3, h, w] in [0, 1].
        order: [n, 4] which change comes when.
        factors: [n, 4] by kind.
    """
    hue_place = jnp.argmax(order == HUE, axis=1)
    strengths = jnp.take_along_axis(factors, order, axis=1)

    def blend_where(applies: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
        def body(place: Array, pixels: Array) -> Array:
            factor = jnp.where(applies(place, hue_place), strengths[:, place], 1)
            return _blend(pixels, order[:, place], factor)

        return body

    pixels = lax.fori_loop(0, 3, blend_where(jnp.less), pixels)
    pixels = _shift_hue(pixels, _per_crop(factors[:, HUE]))
    return lax.fori_loop(1, 4, blend_where(jnp.greater), pixels)


def _blend(pixels: Array, kind: Array, factor: Array) -> Array:
    """clip(f x + (1 - f) reference), the reference being black, the mean luma or the luma, by kind [n]."""
    luma = _luma(pixels)
    mean = _per_crop((1 - factor) * (kind == CONTRAST)) * luma.mean(axis=(2, 3), keepdims=True)
    own = _per_crop((1 - factor) * (kind == SATURATION)) * luma
    return jnp.clip(_per_crop(factor) * pixels + mean + own, 0, 1)


def _luma(pixels: Array) -> Array:
    """[N, 3, h, w] to [N, 1, h, w]."""
    red, green, blue = (float(weight) for weight in LUMA)
    return red * pixels[:, :1] + green * pixels[:, 1:2] + blue * pixels[:, 2:]


def _shift_hue(pixels: Array, turns: Array) -> Array:
    """Hue moved by a share of a full turn in HSV; swav_spec.views.shift_hue has the equation."""
    red, green, blue = pixels[:, :1], pixels[:, 1:2], pixels[:, 2:]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    safe = jnp.where(chroma == 0, 1, chroma)
    hue = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * turns

    def channel(offset: int) -> Array:
        sector = hue + offset
        sector = sector - 6 * jnp.floor(sector / 6)
        return value - chroma * jnp.clip(jnp.minimum(sector, 4 - sector), 0, 1)

    return jnp.concatenate([channel(5), channel(3), channel(1)], axis=1)


def _box_pass(pixels: Array, weights: Array, axis: int) -> Array:
    """One box pass along an axis, indices clamped to the image. weights [N, R + 1], at distance 0..R."""
    size, reach = pixels.shape[axis], weights.shape[1] - 1
    widths = [(0, 0)] * 4
    widths[axis] = (reach, reach)
    padded = jnp.pad(pixels, widths, mode="edge")

    def shifted(offset: int) -> Array:
        return lax.slice_in_dim(padded, reach + offset, reach + offset + size, axis=axis)

    blurred = _per_crop(weights[:, 0]) * pixels
    for distance in range(1, reach + 1):
        blurred = blurred + _per_crop(weights[:, distance]) * (shifted(-distance) + shifted(distance))
    return blurred


def _per_crop(values: Array) -> Array:
    """[N] to [N, 1, 1, 1]."""
    return values[:, None, None, None]
