"""Made-up images of any size without a download: smooth random colour fields, for timing alone. Nothing can be learnt.

A field is a coarse grid of random colours, enlarged smoothly, with finer grids on top: pixels vary as a photo's do, so
that no crop is constant and no kernel meets zeros only.
"""

from __future__ import annotations

import numpy as np

from swav_data.images import ImageSet, Splits

#: Cells along a side of each grid, coarse to fine, and how many levels of 255 it adds at most, up or down.
GRIDS = ((3, 80), (9, 32), (27, 16))
#: Images made of one field: mirrored or not in both directions, negative or not. Drawing all would take eight times
#: as long, in each measured process anew.
VARIANTS = 8
#: Fields made at a time: bounds the memory that making them needs.
CHUNK = 64


def noise(count: int = 2048, side: int = 256, seed: int = 0) -> Splits[ImageSet]:
    """A training split only, [count, side, side, 3] uint8: all images of one class, so there is nothing to evaluate.

    Args:
        count: images; the default is 403 MB at 256 pixels.
        side: pixels.
        seed: the same one always gives the same images.
    """
    fields = _fields(-(-count // VARIANTS), side, seed)
    images = np.empty((count, side, side, 3), dtype=np.uint8)
    for start in range(0, count, len(fields)):
        variant, part = start // len(fields), images[start : start + len(fields)]
        rows, columns = -1 if variant & 1 else 1, -1 if variant & 2 else 1
        part[...] = fields[: len(part), ::rows, ::columns]
        if variant & 4:
            np.subtract(255, part, out=part)
    sides = np.full(count, side)
    return Splits(ImageSet(f"noise of {side} pixels", images, sides, sides, np.zeros(count), ("unlabelled",)))


def small_noise() -> Splits[ImageSet]:
    """`noise` of 4,096 images of 32 x 32 pixels."""
    return noise(4096, 32)


def _fields(count: int, side: int, seed: int) -> np.ndarray:
    """[count, side, side, 3] uint8."""
    random = np.random.Generator(np.random.PCG64([seed, count, side]))
    images = np.empty((count, side, side, 3), dtype=np.uint8)
    for start in range(0, count, CHUNK):
        part = images[start : start + CHUNK]
        field: np.ndarray = np.full((len(part), 1, 1, 3), 127.5)
        for cells, levels in GRIDS:
            field = _enlarged(field, cells) + random.uniform(-levels, levels, (len(part), cells, cells, 3))
        part[...] = np.rint(np.clip(_enlarged(field.astype(np.float32), side), 0, 255))
    return images


def _enlarged(grid: np.ndarray, side: int) -> np.ndarray:
    """[n, cells, cells, 3] as [n, side, side, 3] by linear interpolation, the outer cells at the image's edges."""
    cells = grid.shape[1]
    places = np.linspace(0, cells - 1, side)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(cells))).astype(grid.dtype)
    rows = np.tensordot(grid, weights, axes=([1], [1]))  # [n, cells, 3, side]
    return np.tensordot(rows, weights, axes=([1], [1])).transpose(0, 2, 3, 1)
