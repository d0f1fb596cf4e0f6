"""What one run of SwAV is: frozen dataclasses, checked when they are made.

Everything counts in optimiser steps; recipes.py turns epochs into steps.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from swav_spec.errors import require

Precision = Literal["float64", "float32", "tf32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DeviceKind = Literal["cpu", "gpu"]
Stem = Literal["imagenet", "cifar", "none"]
Block = Literal["bottleneck", "basic", "conv"]
OptimizerKind = Literal["larc_sgd", "sgd", "adam"]


@dataclass(frozen=True)
class Execution:
    """Where and how an implementation computes.

    Attributes:
        device: "cpu" or "gpu" (the first one).
        precision: of the network's products. float64 (tests), float32 (strict: no TF32 anywhere), tf32, or
            bfloat16 (float32 weights; everything after the projection head in float32). Sinkhorn and the loss
            are float32 or wider always.
        mode: how the step is compiled; each implementation lists its own in `modes`, "default" is the first.
    """

    device: DeviceKind = "cpu"
    precision: Precision = "float32"
    mode: str = "default"

    def __post_init__(self) -> None:
        require(self.device in get_args(DeviceKind), "device", self.device, "cpu or gpu")
        require(self.precision in PRECISIONS, "precision", self.precision, "one of " + ", ".join(PRECISIONS))


@dataclass(frozen=True)
class CropGroup:
    """Crops drawn alike: `count` crops of size x size pixels whose area is a share of the image in `scale`."""

    size: int
    count: int
    scale: tuple[float, float]

    def __post_init__(self) -> None:
        low, high = self.scale
        require(self.size >= 1, "crop size", self.size, "at least 1 pixel")
        require(self.count >= 1, "crop count", self.count, "at least 1")
        require(0 < low <= high <= 1, "crop scale", self.scale, "two shares of the image's area, 0 < low <= high <= 1")


@dataclass(frozen=True)
class Augmentation:
    """Chances and ranges of the random changes that make a view (SimCLR's, as SwAV uses them).

    Attributes:
        ratio: aspect ratio (width / height) of the crop, drawn uniformly on a log scale.
        flip: chance of a horizontal flip.
        jitter: chance of the colour jitter.
        brightness, contrast, saturation: factor in [max(0, 1 - x), 1 + x].
        hue: shift in [-x, x] of a full turn, x <= .5.
        grayscale: chance that all channels become the luma.
        blur: chance of the blur.
        blur_radius: range of PIL's GaussianBlur radius (standard deviation in pixels).
        mean, std: subtracted from and divided into pixels in [0, 1], per channel.
    """

    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    grayscale: float = 0.2
    blur: float = 0.5
    blur_radius: tuple[float, float] = (0.1, 2.0)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    # The third value really is .228 in the published recipes, not ImageNet's usual .225.
    std: tuple[float, float, float] = (0.228, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name in ("flip", "jitter", "grayscale", "blur"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"augmentation.{name}", value, "a chance in [0, 1]")
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"augmentation.{name}", value, "at least 0")
        require(0 <= self.hue <= 0.5, "augmentation.hue", self.hue, "in [0, 0.5]")
        low, high = self.ratio
        require(0 < low <= high, "augmentation.ratio", self.ratio, "two aspect ratios, 0 < low <= high")
        low, high = self.blur_radius
        require(0 <= low <= high <= 16, "augmentation.blur_radius", self.blur_radius, "0 <= low <= high <= 16 pixels")
        require(all(s > 0 for s in self.std), "augmentation.std", self.std, "three positive numbers")


class Cropped(Protocol):
    """What views are made from, of a Config or of whatever else has crops."""

    @property
    def crops(self) -> tuple[CropGroup, ...]:
        """Groups of crops, in view order."""

    @property
    def augmentation(self) -> Augmentation:
        """Chances and ranges of their changes; their mean and std."""

    @property
    def resolutions(self) -> tuple[tuple[int, int], ...]:
        """(side, how many) for each run of consecutive views of equal side."""


@dataclass(frozen=True)
class Network:
    """A convolutional backbone, a projection head and the prototypes; network.py gives names and shapes.

    Attributes:
        block: "bottleneck" (ResNet-50), "basic" (ResNet-18) or "conv" (one 3x3 convolution, BN, ReLU).
        depths: blocks in each stage.
        widths: channels of each stage, before a bottleneck's expansion by 4.
        strides: stride of the first block of each stage.
        stem: "imagenet" (7x7 stride 2 and max-pool), "cifar" (3x3 stride 1) or "none".
        hidden: units of the head's hidden layer.
        embedding: dimension D of the embeddings.
        prototypes: number K of prototypes.
    """

    block: Block = "bottleneck"
    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    stem: Stem = "imagenet"
    hidden: int = 2048
    embedding: int = 128
    prototypes: int = 3000

    def __post_init__(self) -> None:
        require(self.block in get_args(Block), "network.block", self.block, "one of " + ", ".join(get_args(Block)))
        require(self.stem in get_args(Stem), "network.stem", self.stem, "one of " + ", ".join(get_args(Stem)))
        lengths = {len(self.depths), len(self.widths), len(self.strides)}
        require(
            len(lengths) == 1 and 0 not in lengths,
            "network.depths, widths, strides",
            (self.depths, self.widths, self.strides),
            "equally many, one for each stage",
        )
        for name in ("depths", "widths", "strides"):
            value = getattr(self, name)
            require(min(value) >= 1, f"network.{name}", value, "at least 1 in each stage")
        require(self.hidden >= 1, "network.hidden", self.hidden, "at least 1")
        require(self.embedding >= 1, "network.embedding", self.embedding, "at least 1")
        require(self.prototypes >= 2, "network.prototypes", self.prototypes, "at least 2")

    @property
    def expansion(self) -> int:
        """Output channels of a block over its width."""
        return 4 if self.block == "bottleneck" else 1

    @property
    def features(self) -> int:
        """Dimension F of the backbone's pooled features."""
        return self.widths[-1] * self.expansion


@dataclass(frozen=True)
class Optimizer:
    """LARC + SGD (published recipes), plain SGD, or the framework's own Adam (small-data recipes).

    Attributes:
        momentum: decay of the SGD buffer (Adam uses its own usual .9, .999, 1e-8).
        weight_decay: added to the gradient as wd * p, for every tensor.
        trust: LARC's ratio.
    """

    kind: OptimizerKind = "larc_sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-6
    trust: float = 0.001

    def __post_init__(self) -> None:
        kinds = get_args(OptimizerKind)
        require(self.kind in kinds, "optimizer.kind", self.kind, "one of " + ", ".join(kinds))
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "in [0, 1)")
        require(0 <= self.weight_decay < math.inf, "optimizer.weight_decay", self.weight_decay, "at least 0")
        require(0 < self.trust < math.inf, "optimizer.trust", self.trust, "greater than 0")


@dataclass(frozen=True)
class Schedule:
    """Learning rate per step: linear warm-up, then half a cosine; schedule.py has the equation."""

    steps: int
    base_lr: float
    final_lr: float = 0.0
    warmup_steps: int = 0
    start_warmup: float = 0.0

    def __post_init__(self) -> None:
        require(self.steps >= 1, "schedule.steps", self.steps, "at least 1")
        require(0 <= self.warmup_steps <= self.steps, "schedule.warmup_steps", self.warmup_steps, f"in 0..{self.steps}")
        for name in ("base_lr", "final_lr", "start_warmup"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"schedule.{name}", value, "at least 0 and finite")


@dataclass(frozen=True)
class Config:
    """One run of SwAV, complete but for its data, its seed and where it executes.

    Attributes:
        batch: B, images per step.
        crops: groups of crops, in view order; view v of the step is the v-th crop over all groups.
        assigned: views that codes are computed for; all of the first group's resolution.
        epsilon: entropy weight of Sinkhorn. iterations: of Sinkhorn. temperature: of the softmax in the loss.
        queue_length: rows of embeddings kept per assigned view, 0 for none; floored to a multiple of the batch.
        queue_start: the step at which the queue is created and first pushed.
        freeze_steps: the prototypes are not trained in steps 0 .. freeze_steps - 1.
    """

    batch: int
    crops: tuple[CropGroup, ...]
    network: Network
    schedule: Schedule
    optimizer: Optimizer = field(default_factory=Optimizer)
    augmentation: Augmentation = field(default_factory=Augmentation)
    assigned: tuple[int, ...] = (0, 1)
    epsilon: float = 0.05
    iterations: int = 3
    temperature: float = 0.1
    queue_length: int = 0
    queue_start: int = 0
    freeze_steps: int = 0

    def __post_init__(self) -> None:
        require(self.batch >= 2, "batch", self.batch, "at least 2")
        require(self.views >= 2, "crops", self.crops, "at least two views in all")
        require(len(self.assigned) >= 1, "assigned", self.assigned, "at least one view")
        require(len(set(self.assigned)) == len(self.assigned), "assigned", self.assigned, "views named once each")
        sizes = self.view_sizes
        for view in self.assigned:
            require(0 <= view < self.views, "assigned", self.assigned, f"views in 0..{self.views - 1}")
            require(
                sizes[view] == sizes[0], "assigned", self.assigned, f"views of the first resolution ({sizes[0]} pixels)"
            )
        require(0 < self.epsilon < math.inf, "epsilon", self.epsilon, "greater than 0")
        require(0 < self.temperature < math.inf, "temperature", self.temperature, "greater than 0")
        require(self.iterations >= 1, "iterations", self.iterations, "at least 1")
        require(
            self.queue_length == 0 or self.queue_length >= self.batch,
            "queue_length",
            self.queue_length,
            f"0 (no queue) or at least the batch ({self.batch})",
        )
        require(self.queue_start >= 0, "queue_start", self.queue_start, "at least 0")
        require(self.freeze_steps >= 0, "freeze_steps", self.freeze_steps, "at least 0")

    @property
    def views(self) -> int:
        """V, crops per image."""
        return sum(group.count for group in self.crops)

    @property
    def view_sizes(self) -> tuple[int, ...]:
        """Side of each view in pixels, in view order."""
        return tuple(group.size for group in self.crops for _ in range(group.count))

    @property
    def resolutions(self) -> tuple[tuple[int, int], ...]:
        """(side, how many) for each run of consecutive views of equal side: one backbone call each."""
        runs: list[tuple[int, int]] = []
        for size in self.view_sizes:
            if runs and runs[-1][0] == size:
                runs[-1] = (size, runs[-1][1] + 1)
            else:
                runs.append((size, 1))
        return tuple(runs)

    @property
    def queue_rows(self) -> int:
        """Rows of the queue per assigned view: queue_length floored to a multiple of the batch."""
        return self.queue_length // self.batch * self.batch


def to_dict(config: Config) -> dict:
    """The config as plain dictionaries, lists and numbers, for JSON."""
    return dataclasses.asdict(config)


def from_dict(data: dict) -> Config:
    """The config that `to_dict` gave, checked again.

    Raises:
        InvalidInput: a field is unknown, missing or out of range.
    """
    return built(Config, data, "config")


_NESTED = {"network": Network, "schedule": Schedule, "optimizer": Optimizer, "augmentation": Augmentation}


def built(kind: type, data: dict, where: str) -> Any:
    """A checked dataclass of that kind, and those inside it, from plain tables; see `from_dict` for what it raises."""
    require(isinstance(data, dict), where, data, "a table of fields")
    known = {item.name: item for item in dataclasses.fields(kind)}
    unknown = sorted(set(data) - set(known))
    require(not unknown, f"{where} fields", unknown, "among " + ", ".join(known))
    missing = sorted(
        name
        for name, item in known.items()
        if name not in data and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    )
    require(not missing, f"{where} missing fields", missing, "present")
    values = {}
    for name, value in data.items():
        if name in _NESTED:
            values[name] = built(_NESTED[name], value, f"{where}.{name}")
        elif name == "crops":
            values[name] = tuple(built(CropGroup, group, f"{where}.crops[{i}]") for i, group in enumerate(value))
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
