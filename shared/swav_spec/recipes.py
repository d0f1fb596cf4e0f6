"""Published recipes, and small ones of our own, as data: epochs and counts; `resolve` turns them into a Config.

The published rows are from the paper's appendix and the released training scripts' documented settings; their
ImageNet linear top-1 stands beside each.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from swav_spec.config import Augmentation, Config, CropGroup, Network, Optimizer, Schedule
from swav_spec.errors import require


def resnet50(width: int = 1, **changes: Any) -> Network:
    """ResNet-50, `width` times as wide, ImageNet stem."""
    return Network(widths=tuple(64 * width * 2**stage for stage in range(4)), **changes)


def resnet18(**changes: Any) -> Network:
    """ResNet-18 with the CIFAR stem unless told otherwise."""
    return Network(block="basic", depths=(2, 2, 2, 2), **({"stem": "cifar"} | changes))


_GROUP = re.compile(r"(\d+)x(\d+)")
NETWORKS = MappingProxyType(
    {
        "resnet50": resnet50(),
        "resnet50w2": resnet50(2, hidden=8192),
        "resnet50w4": resnet50(4, hidden=8192),
        "resnet50w5": resnet50(5, hidden=8192),
        "resnet18": resnet18(stem="imagenet"),
        "resnet18-cifar": resnet18(),
        "resnet50-cifar": resnet50(stem="cifar"),
        "convnet4": Network(
            block="conv",
            depths=(1, 1, 1, 1),
            widths=(16, 32, 64, 64),
            strides=(2, 2, 2, 1),
            stem="none",
            hidden=128,
            embedding=32,
            prototypes=30,
        ),
    }
)


@dataclass(frozen=True)
class Recipe:
    """A way to train, before the number of images is known.

    Attributes:
        epochs, warmup_epochs, queue_start_epoch: in passes over the data.
        freeze_steps: in steps, as published.
        linear_top1: published ImageNet linear accuracy in percent, None where there is none.
        Others: as in Config and Schedule.
    """

    network: Network
    crops: tuple[CropGroup, ...]
    batch: int
    epochs: float
    base_lr: float
    final_lr: float
    warmup_epochs: float = 0
    start_warmup: float = 0.0
    freeze_steps: int = 0
    queue_length: int = 0
    queue_start_epoch: int = 0
    epsilon: float = 0.05
    iterations: int = 3
    temperature: float = 0.1
    optimizer: Optimizer = field(default_factory=Optimizer)
    augmentation: Augmentation = field(default_factory=Augmentation)
    assigned: tuple[int, ...] = (0, 1)
    linear_top1: float | None = None


def resolve(recipe: Recipe, *, samples: int, steps: int | None = None) -> Config:
    """The recipe for a data set of `samples` images (incomplete batches are dropped).

    Args:
        recipe: see there; change fields with dataclasses.replace first.
        samples: images in the training set.
        steps: length of the run instead of the recipe's epochs; the schedule is stretched over it.

    Raises:
        InvalidInput: there are fewer samples than a batch, or a field is out of range.
    """
    require(samples >= recipe.batch, "batch", recipe.batch, f"at most the number of training images ({samples})")
    per_epoch = samples // recipe.batch
    total = round(recipe.epochs * per_epoch) if steps is None else steps
    return Config(
        batch=recipe.batch,
        crops=recipe.crops,
        network=recipe.network,
        schedule=Schedule(
            steps=total,
            base_lr=recipe.base_lr,
            final_lr=recipe.final_lr,
            warmup_steps=min(round(recipe.warmup_epochs * per_epoch), total),
            start_warmup=recipe.start_warmup,
        ),
        optimizer=recipe.optimizer,
        augmentation=recipe.augmentation,
        assigned=recipe.assigned,
        epsilon=recipe.epsilon,
        iterations=recipe.iterations,
        temperature=recipe.temperature,
        queue_length=recipe.queue_length,
        queue_start=recipe.queue_start_epoch * per_epoch,
        freeze_steps=recipe.freeze_steps,
    )


def _published(**changes: Any) -> Recipe:
    multi = (CropGroup(224, 2, (0.14, 1.0)), CropGroup(96, 6, (0.05, 0.14)))
    large = Recipe(
        network=resnet50(),
        crops=multi,
        batch=4096,
        epochs=800,
        base_lr=4.8,
        final_lr=0.0048,
        warmup_epochs=10,
        start_warmup=0.3,
        freeze_steps=313,
    )
    return dataclasses.replace(large, **changes)


def _published_small_batch(**changes: Any) -> Recipe:
    return _published(
        batch=256,
        base_lr=0.6,
        final_lr=0.0006,
        warmup_epochs=0,
        start_warmup=0.0,
        freeze_steps=5005,
        queue_length=3840,
        queue_start_epoch=15,
        **changes,
    )


def _small(
    network: Network, crops: tuple[CropGroup, ...], *, batch: int = 128, base_lr: float = 1e-3, blur: float = 0.5
) -> Recipe:
    return Recipe(
        network=network,
        crops=crops,
        batch=batch,
        epochs=200,
        base_lr=base_lr,
        final_lr=0.0,
        warmup_epochs=10,
        start_warmup=base_lr / 10,
        optimizer=Optimizer(kind="adam"),
        augmentation=Augmentation(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur=blur),
    )


RECIPES = MappingProxyType(
    {
        "imagenet-100ep": _published(epochs=100, linear_top1=72.1),
        "imagenet-200ep": _published(epochs=200, linear_top1=73.9),
        "imagenet-400ep": _published(epochs=400, linear_top1=74.6),
        "imagenet-800ep": _published(linear_top1=75.3),
        "imagenet-200ep-bs256": _published_small_batch(epochs=200, linear_top1=72.7),
        "imagenet-400ep-bs256": _published_small_batch(epochs=400, linear_top1=74.3),
        "imagenet-400ep-2x224": _published(epochs=400, crops=(CropGroup(224, 2, (0.08, 1.0)),), linear_top1=70.1),
        "imagenet-400ep-w2": _published(
            epochs=400,
            network=NETWORKS["resnet50w2"],
            crops=(CropGroup(224, 2, (0.14, 1.0)), CropGroup(96, 4, (0.05, 0.14))),
            linear_top1=77.3,
        ),
        "imagenet-400ep-w4": _published(
            epochs=400,
            network=NETWORKS["resnet50w4"],
            batch=2560,
            crops=(CropGroup(224, 2, (0.08, 1.0)), CropGroup(96, 4, (0.08, 0.14))),
            queue_length=2560,
            linear_top1=77.9,
        ),
        # Ours, for the demo: ImageNet's crops and jitter collapse on these images, and so does epsilon .05.
        "textures": Recipe(
            network=NETWORKS["convnet4"],
            crops=(CropGroup(32, 2, (0.6, 1.0)), CropGroup(16, 4, (0.2, 0.35))),
            batch=64,
            epochs=16,
            base_lr=0.3,
            final_lr=0.0,
            warmup_epochs=0.3125,  # 10 steps at batch 64
            epsilon=0.02,
            optimizer=Optimizer(kind="sgd"),
            augmentation=Augmentation(brightness=0.1, contrast=0.1, saturation=0.1, hue=0.5, blur=0.2),
        ),
        # Ours, for small sets: Adam, as many prototypes as a batch has images or fewer, so that no queue is needed, and
        # half the colour jitter. On 32 pixels a blur of radius 2 would leave nothing.
        "cifar10": _small(
            resnet18(hidden=512, prototypes=512),
            (CropGroup(32, 2, (0.3, 1.0)), CropGroup(16, 4, (0.15, 0.3))),
            batch=512,
            base_lr=2e-3,
            blur=0.0,
        ),
        "cifar10-2x32": _small(
            resnet18(hidden=512, prototypes=512), (CropGroup(32, 2, (0.14, 1.0)),), batch=512, base_lr=2e-3, blur=0.0
        ),
        "flowers": _small(
            resnet18(stem="imagenet", hidden=512, prototypes=128),
            (CropGroup(160, 2, (0.14, 1.0)), CropGroup(96, 4, (0.05, 0.14))),
        ),
        "flowers-resnet50": _small(
            resnet50(prototypes=128), (CropGroup(224, 2, (0.14, 1.0)), CropGroup(96, 3, (0.05, 0.14)))
        ),
    }
)


def recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        InvalidInput: there is none of that name.
    """
    require(name in RECIPES, "recipe", name, "one of " + ", ".join(RECIPES))
    return RECIPES[name]


def without_multi_crop(changed: Recipe) -> Recipe:
    """The recipe with its first group of crops only."""
    return dataclasses.replace(changed, crops=changed.crops[:1])


def with_crops(changed: Recipe, crops: str) -> Recipe:
    """The recipe with other counts and sizes of crops; each group keeps its scale.

    Args:
        changed: a recipe.
        crops: COUNTxSIZE for each of its groups, with + between, e.g. "2x160+4x96".

    Raises:
        InvalidInput: `crops` has another form or another number of groups.
    """
    matches = [_GROUP.fullmatch(part) for part in crops.split("+")]
    example = f"{len(changed.crops)} times COUNTxSIZE with + between, e.g. 2x160+4x96"
    require(all(matches) and len(matches) == len(changed.crops), "crops", crops, example)
    groups = (
        dataclasses.replace(group, count=int(match[1]), size=int(match[2]))
        for group, match in zip(changed.crops, matches, strict=True)
        if match
    )
    return dataclasses.replace(changed, crops=tuple(groups))


def network_name(network: Network) -> str:
    """The name of a network with this backbone, whatever its head; empty where none has."""

    def backbone(of: Network) -> tuple[object, ...]:
        return of.block, of.depths, of.widths, of.strides, of.stem

    return next((name for name, known in NETWORKS.items() if backbone(known) == backbone(network)), "")


def with_network(changed: Recipe, name: str) -> Recipe:
    """The recipe with the network called `name`.

    Raises:
        InvalidInput: there is none of that name.
    """
    require(name in NETWORKS, "network", name, "one of " + ", ".join(NETWORKS))
    return dataclasses.replace(changed, network=NETWORKS[name])
