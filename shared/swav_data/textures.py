"""Twelve classes of small textures, made from a seed in about a second: a set that needs no download.

An image repeats one motif on a warped, slightly rotated lattice, with a tint and noise of its own. Its luminance is
standardised, so that neither brightness nor coverage tells the class: only shape does, and raw pixels do poorly.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np

from swav_data.images import ImageSet, Splits
from swav_spec.errors import require

SIDE = 32
COUNTS = MappingProxyType({"train": 2048, "validation": 512, "test": 1024})


def _plus(u, v):
    return np.minimum(abs(u), abs(v)) + 0.35 * (np.maximum(abs(u), abs(v)) > 0.38) < 0.12


def _bricks(u, v):
    joint = np.where(v < 0, abs(u) > 0.41, abs(u) < 0.09)
    return joint | (abs(v) < 0.08) | (abs(v) > 0.42)


#: Class -> where the motif is bright, at positions u (to the right) and v (down) in the unit cell, -.5 to .5.
#: No flip, left to right or upside down, turns a class into another.
MOTIFS: MappingProxyType[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = MappingProxyType(
    {
        "horizontal stripes": lambda _u, v: abs(v) < 0.25,
        "vertical stripes": lambda u, _v: abs(u) < 0.25,
        "diagonal stripes": lambda u, v: (u + v) % 1 < 0.5,
        "checks": lambda u, v: (u < 0) ^ (v < 0),
        "dots": lambda u, v: np.hypot(u, v) < 0.3,
        "rings": lambda u, v: abs(np.hypot(u, v) - 0.34) < 0.09,
        "grid lines": lambda u, v: np.maximum(abs(u), abs(v)) > 0.38,
        "plus signs": _plus,
        "bricks": _bricks,
        "crosses": lambda u, v: (abs(abs(u) - abs(v)) < 0.13) & (np.maximum(abs(u), abs(v)) < 0.4),
        "triangles": lambda u, v: (abs(u) < 0.55 * (v + 0.36)) & (v < 0.36),
        "zigzags": lambda u, v: (v + abs(u)) % 1 < 0.5,
    }
)


def textures(seed: int = 0) -> Splits:
    """2048 training, 512 validation and 1024 test images of 32 x 32 pixels in 12 classes, as even as they can be.

    Args:
        seed: at least 0; the same one always gives the same images.

    Raises:
        InvalidInput: the seed is negative.
    """
    require(seed >= 0, "seed", seed, "at least 0")
    return Splits(**{split: _split(split, seed, stream) for stream, split in enumerate(COUNTS)})


def _split(split: str, seed: int, stream: int) -> ImageSet:
    random = np.random.Generator(np.random.PCG64([seed, stream]))
    count = COUNTS[split]
    labels = random.permutation(np.arange(count) % len(MOTIFS))
    u, v = _cells(random, count)
    luminance = np.empty((count, SIDE, SIDE))
    for label, motif in enumerate(MOTIFS.values()):
        rows = labels == label
        luminance[rows] = motif(u[rows], v[rows])
    luminance -= luminance.mean(axis=(1, 2), keepdims=True)
    luminance /= luminance.std(axis=(1, 2), keepdims=True)

    grey = 0.5 + random.normal(0, 0.12, luminance.shape)
    tint = 0.16 + 0.05 * _hues(random, count)
    images = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8)
    for channel in range(3):
        pixels = luminance * tint[:, channel, None, None] + grey
        images[..., channel] = np.rint(np.clip(pixels, 0, 1) * 255)
    sizes = np.full(count, SIDE)
    return ImageSet(f"textures/{split}", images, sizes, sizes, labels, tuple(MOTIFS))


def _cells(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Position of every pixel in its unit cell, u and v [count, SIDE, SIDE] in [-.5, .5)."""

    def draw(low: float, high: float, *shape: int) -> np.ndarray:
        return random.uniform(low, high, (*shape, count, 1, 1))

    y, x = np.arange(SIDE)[:, None], np.arange(SIDE)
    amplitude, wavelength, phase = draw(1, 2, 2), draw(14, 26, 2), draw(0, 2 * np.pi, 2)
    x, y = (
        x + amplitude[0] * np.sin(2 * np.pi * y / wavelength[0] + phase[0]),
        y + amplitude[1] * np.sin(2 * np.pi * x / wavelength[1] + phase[1]),
    )
    angle, period, offset = draw(-0.1, 0.1), draw(5.5, 8.5), draw(0, 1, 2)
    u = (np.cos(angle) * x + np.sin(angle) * y) / period + offset[0]
    v = (np.cos(angle) * y - np.sin(angle) * x) / period + offset[1]
    return u % 1 - 0.5, v % 1 - 0.5


def _hues(random: np.random.Generator, count: int) -> np.ndarray:
    """[count, 3] unit directions in RGB at right angles to grey, uniform around it."""
    angle = random.uniform(0, 2 * np.pi, count)[:, None]
    red_cyan = np.array([2.0, -1.0, -1.0]) / np.sqrt(6)
    green_blue = np.array([0.0, 1.0, -1.0]) / np.sqrt(2)
    return np.cos(angle) * red_cyan + np.sin(angle) * green_blue
