"""Small runs with everything at once: two resolutions, warm-up, freeze, a queue that fills and is used, LARC."""

from __future__ import annotations

import numpy as np

from swav_spec.config import Augmentation, Config, CropGroup, Network, Optimizer, Schedule
from swav_spec.multicrop import crop_plan
from swav_spec.testing.images import random_images

STEPS = 10
SEED = 11
IMAGES, SIDE = 24, 36
#: Seeds of the weights, chosen so that no ReLU parts float32 runs by more than a percent in all steps.
WEIGHTS = {"basic": 114, "bottleneck": 107, "convnet4": 11}
PRECISIONS = ("float64", "float32")

_HEAD = {"hidden": 16, "embedding": 8, "prototypes": 12}
_TWO = {"depths": (1, 2), "strides": (1, 2)}
NETWORKS = {
    "basic": Network(block="basic", widths=(6, 8), stem="cifar", **_TWO, **_HEAD),
    "bottleneck": Network(block="bottleneck", widths=(4, 6), stem="imagenet", **_TWO, **_HEAD),
    "convnet4": Network(block="conv", depths=(1,) * 4, widths=(6, 8, 8, 8), strides=(2, 2, 2, 1), stem="none", **_HEAD),
}


def config_of(name: str) -> Config:
    """Freeze ends after step 1; the queue of two batches fills in steps 3 and 4 and is used from step 5."""
    return Config(
        batch=8,
        crops=(CropGroup(24, 2, (0.3, 1.0)), CropGroup(12, 3, (0.1, 0.3))),
        network=NETWORKS[name],
        schedule=Schedule(steps=STEPS, base_lr=0.6, final_lr=0.0006, warmup_steps=3, start_warmup=0.1),
        # The bias in front of the head's normalisation has no gradient but rounding, which LARC would scale up to a
        # full step; this much decay outweighs it.
        optimizer=Optimizer(weight_decay=1e-2),
        augmentation=Augmentation(),
        queue_length=17,
        queue_start=3,
        freeze_steps=2,
    )


def images() -> np.ndarray:
    """The set that the crops are taken from, [IMAGES, SIDE, SIDE, 3] uint8."""
    return random_images(SEED, IMAGES, SIDE, SIDE)


def plan_of(config: Config, step: int):
    """The crops of a step: samples drawn from a resident set."""
    samples = np.random.default_rng([SEED, step]).permutation(IMAGES)[: config.batch]
    return crop_plan(config, seed=SEED, epoch=step, samples=samples, heights=SIDE, widths=SIDE, index=samples)
