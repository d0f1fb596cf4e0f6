"""Times an implementation's views and PIL's pipeline in turns, in one process; prints one JSON line.

    python benchmarks/micro/pil_views.py IMPLEMENTATION MODE

Run it with one thread: test_pil_views.py does.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from swav_data.sources import load
from swav_spec import registry
from swav_spec.config import Config, CropGroup, Execution, Network, Schedule
from swav_spec.multicrop import BRIGHTNESS, CONTRAST, HUE, SATURATION, crop_plan

IMAGES, BATCH, ROUNDS = 1000, 250, 5
CROPS = (CropGroup(32, 2, (0.14, 1.0)), CropGroup(16, 4, (0.05, 0.14)))
BLENDS = {BRIGHTNESS: ImageEnhance.Brightness, CONTRAST: ImageEnhance.Contrast, SATURATION: ImageEnhance.Color}


def pil_views(images, plan, config):
    """The views of PIL images from the numbers of a plan, as loaders on the host make them: bytes after each change."""
    mean, std = (np.array(values, dtype=np.float32) for values in (config.augmentation.mean, config.augmentation.std))
    result = []
    for group in plan.groups:
        crops, batch = group.box.shape[:2]
        radius = radius_of(group.blur)
        views = np.empty((crops * batch, group.size, group.size, 3), dtype=np.float32)
        for row, at in enumerate(np.ndindex(crops, batch)):
            pixels = np.asarray(pil_view(images[plan.index[at[1]]], group, at, float(radius[at])), dtype=np.float32)
            np.divide(pixels / 255 - mean, std, out=views[row])
        result.append(views)
    return result


def pil_view(image, group, at, radius):
    top, left, height, width = group.box[at].tolist()
    view = image.crop((left, top, left + width, top + height))
    view = view.resize((group.size, group.size), Image.Resampling.BILINEAR)
    if group.flip[at]:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    factors = group.jitter_factor[at].tolist()
    if factors != [1, 1, 1, 0]:
        for kind in group.jitter_order[at].tolist():
            view = hue(view, factors[HUE]) if kind == HUE else BLENDS[kind](view).enhance(factors[kind])
    if group.grayscale[at]:
        view = view.convert("L").convert("RGB")
    return view.filter(ImageFilter.GaussianBlur(radius)) if radius else view


def hue(image, turns):
    hues, saturation, value = image.convert("HSV").split()
    shifted = np.asarray(hues) + np.uint8(round(255 * turns) % 256)
    return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")


def radius_of(weights):
    """PIL's radius, the standard deviation, from the weights [..., R + 1] of one of its three passes."""
    distance = np.arange(weights.shape[-1])
    return np.sqrt(6 * (weights.astype(np.float64) * distance**2).sum(axis=-1))


def main():
    implementation = registry.load(sys.argv[1], Execution("cpu", "float32", sys.argv[2]))
    config = Config(batch=BATCH, crops=CROPS, network=Network(), schedule=Schedule(steps=1, base_lr=0.1))
    pixels = load("textures").train.images[:IMAGES]
    plans = [
        crop_plan(config, seed=0, epoch=0, samples=samples, heights=32, widths=32, index=samples)
        for samples in np.arange(IMAGES).reshape(-1, BATCH)
    ]
    pictures = [Image.fromarray(image) for image in pixels]
    resident = implementation.to_device(pixels)

    def by_implementation():
        made = [implementation.views(resident, plan, config) for plan in plans]
        implementation.fence(made)
        return made

    def by_pil():
        return [pil_views(pictures, plan, config) for plan in plans]

    seconds = {"implementation": [], "pil": []}
    made, expected = by_implementation(), by_pil()  # traces and compiles
    for _ in range(ROUNDS):
        for name, run in (("implementation", by_implementation), ("pil", by_pil)):
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    std = np.array(config.augmentation.std)
    gaps = [
        255 * std * np.abs(implementation.to_host(view) - wanted)
        for batch, wanted_batch in zip(made, expected, strict=True)
        for view, wanted in zip(batch, wanted_batch, strict=True)
    ]
    levels = float(np.mean([gap.mean() for gap in gaps]))
    print(json.dumps({"seconds": seconds, "levels": levels, "describe": implementation.describe()}))


if __name__ == "__main__":
    main()
