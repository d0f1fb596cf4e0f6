"""Views by Pillow on the host, on torch's number of threads, from the numbers of a crop plan: bytes after each change.

Pillow lets go of Python's lock while it computes, so that threads do what a loader's worker processes would.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter

from swav_spec.config import Augmentation
from swav_spec.multicrop import BRIGHTNESS, CONTRAST, HUE, SATURATION, CropPlan, GroupPlan

ENHANCERS = {BRIGHTNESS: ImageEnhance.Brightness, CONTRAST: ImageEnhance.Contrast, SATURATION: ImageEnhance.Color}
UNCHANGED = [1, 1, 1, 0]


def make_views(images: np.ndarray, plan: CropPlan, looks: Augmentation) -> list[np.ndarray]:
    """One [C*B, size, size, 3] float64 array for each resolution, crop-major, normalised.

    Args:
        images: [N, H, W, 3] uint8.
        plan: of the batch.
        looks: its mean and std are used.
    """
    pictures = [Image.fromarray(images[position]) for position in plan.index]

    def made(group: GroupPlan, crop: int, row: int) -> np.ndarray:
        return normalised(np.asarray(make_view(pictures[row], group, crop, row)), looks)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return [
            np.stack(list(pool.map(partial(made, group), *np.indices(group.box.shape[:2]).reshape(2, -1).tolist())))
            for group in plan.groups
        ]


def make_view(picture: Image.Image, group: GroupPlan, crop: int, row: int) -> Image.Image:
    """One view: crop and resize, flip, colour jitter, grayscale, blur."""
    at = (crop, row)
    top, left, height, width = group.box[at].tolist()
    view = picture.crop((left, top, left + width, top + height))
    view = view.resize((group.size, group.size), Image.Resampling.BILINEAR)
    if group.flip[at]:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    factors: Sequence[float] = group.jitter_factor[at].tolist()
    if factors != UNCHANGED:
        for kind in group.jitter_order[at].tolist():
            view = shift_hue(view, factors[HUE]) if kind == HUE else ENHANCERS[kind](view).enhance(factors[kind])
    if group.grayscale[at]:
        view = view.convert("L").convert("RGB")
    radius = blur_radius(group.blur[at])
    return view.filter(ImageFilter.GaussianBlur(radius)) if radius else view


def shift_hue(view: Image.Image, turns: float) -> Image.Image:
    """Hue moved by a share of a full turn, in HSV."""
    hue, saturation, value = view.convert("HSV").split()
    shifted = np.asarray(hue) + np.uint8(round(255 * turns) % 256)
    return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")


def blur_radius(weights: np.ndarray) -> float:
    """Pillow's radius, the standard deviation in pixels, from the weights [R + 1] of one of its three box passes."""
    distance = np.arange(len(weights))
    return float(np.sqrt(6 * np.sum(weights.astype(np.float64) * distance**2)))


def normalised(pixels: np.ndarray, looks: Augmentation) -> np.ndarray:
    """[..., 3] bytes as numbers in [0, 1], less the mean, over the standard deviation; float64."""
    return (pixels / 255 - np.array(looks.mean)) / np.array(looks.std)
