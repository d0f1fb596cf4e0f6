"""How large an image may be in memory, and how it gets there.

Images only ever shrink. The crops of a view are cut from what is left, so `resize_short` should not be far below
the largest crop; the longer side is bounded because one panorama would widen the canvas of every image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from swav_spec.errors import require


@dataclass(frozen=True)
class Canvas:
    """Bounds on the sides of an image, in pixels; the aspect ratio is kept, up to rounding to whole pixels.

    Attributes:
        resize_short: images whose shorter side is longer than this are shrunk to it.
        max_side: images whose longer side is then longer than this are shrunk to it.
    """

    resize_short: int = 256
    max_side: int = 384

    def __post_init__(self) -> None:
        require(self.resize_short >= 1, "resize_short", self.resize_short, "at least 1 pixel")
        allowed = f"at least resize_short ({self.resize_short})"
        require(self.max_side >= self.resize_short, "max_side", self.max_side, allowed)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what becomes of an image of height x width pixels; at least 1 x 1."""
        # The scale is bound / side, the smaller of the two and never above 1; in integers, so that rounding is exact.
        bound, side = self.resize_short, min(height, width)
        if self.max_side * side < bound * max(height, width):
            bound, side = self.max_side, max(height, width)
        if bound >= side:
            return height, width
        new_height, new_width = ((2 * length * bound + side) // (2 * side) for length in (height, width))
        return max(1, new_height), max(1, new_width)


def place(images: list[np.ndarray], canvases: np.ndarray) -> np.ndarray:
    """Writes images [h, w, 3] into the top left corners of canvases [N, H, W, 3], zeros around.

    Returns:
        [N, 2] int64, their heights and widths.
    """
    for canvas, image in zip(canvases, images, strict=True):
        height, width = image.shape[:2]
        canvas[:height, :width] = image
        canvas[height:] = 0
        canvas[:height, width:] = 0
    return np.array([image.shape[:2] for image in images], dtype=np.int64).reshape(-1, 2)
