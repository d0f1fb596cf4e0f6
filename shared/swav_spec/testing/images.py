"""Random images with edges, gradients, noise and saturated colours: what crops, blends and blurs can get wrong."""

from __future__ import annotations

import numpy as np


def random_images(seed: int, count: int, height: int, width: int) -> np.ndarray:
    """[count, height, width, 3] uint8: tinted noisy waves; the first four are black, white, red, a hard edge."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    direction = rng.uniform(-1, 1, (count, 2, 1, 1))
    phase = direction[:, 0] * rows + direction[:, 1] * columns + rng.uniform(0, 6, (count, 1, 1))
    colour = rng.uniform(-1, 1, (count, 1, 1, 3))
    waves = 0.5 + 0.4 * np.sin(phase)[..., None] * colour + rng.normal(0, 0.12, (count, height, width, 3))
    images = np.rint(255 * np.clip(waves, 0, 1)).astype(np.uint8)
    edge = np.where(columns < width // 2, 0, 255)[..., None]
    for image, special in zip(images, (0, 255, (255, 0, 0), edge), strict=False):
        image[:] = special
    return images
