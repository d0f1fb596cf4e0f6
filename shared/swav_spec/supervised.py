"""What labels make of a pretrained backbone: a linear classifier on its pooled features (SwAV, sections 4.1 and 4.2).

One mechanism for two protocols. The linear protocol trains the classifier alone, on a frozen backbone in evaluation
mode; fine-tuning trains both, with two learning rates, on the few images that are labelled. Training is plain SGD
with momentum on the mean cross-entropy of logits = features weight' + bias, from one random resized crop per image;
images are judged by their central view. On another data set than that of the pretraining, the same is called transfer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from swav_spec.config import Augmentation, CropGroup, Network, Optimizer, built
from swav_spec.errors import require
from swav_spec.multicrop import CropPlan, central_plan
from swav_spec.network import named_generator, tensor_shapes
from swav_spec.philox import philox4x32

WEIGHT, BIAS = "linear.weight", "linear.bias"
#: Parts of a published state dict that are no use to a classifier.
_NOT_BACKBONE = ("projection_head.", "prototypes.")
#: First counter word of the draw of labelled images; crop plans use small ones, the order of epochs another.
_BLOCK = 0xFFFFFFFE

#: Crops and flips alone.
PLAIN = Augmentation(jitter=0.0, grayscale=0.0, blur=0.0)
LearningRateKind = Literal["cosine", "steps"]


@dataclass(frozen=True)
class Supervised:
    """Training a linear classifier on a backbone's pooled features.

    Attributes:
        epochs: E, over the training images.
        head_lr: learning rate of the classifier at the start.
        trunk_lr: of the backbone; None freezes it: running statistics, no gradient, no tensor of it ever changes.
        kind: "cosine", lr_e = lr (1 + cos(pi e / E)) / 2, or "steps", times `gamma` from each milestone on.
        milestones: epochs, counted from 0, in order; with "steps" only.
        gamma: factor at each milestone.
        momentum, weight_decay: of SGD; the decay is added to the gradient of every tensor that is trained.
        batch: images per step.
        size: side of the views in pixels, in training and evaluation.
        scale: share of the image's area that a training view is cut from.
        share: of the shorter side that the view of evaluation takes (evaluation_plan).
        fraction: share of the training images whose labels are used (labelled_subset).
        steps_per_epoch: optimiser steps in an epoch, which depend on the data: see `with_data`.
        augmentation: of training views; mean and std are those that the backbone was trained with.
    """

    epochs: int
    head_lr: float
    trunk_lr: float | None = None
    kind: LearningRateKind = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch: int = 256
    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    share: float = 224 / 256
    fraction: float = 1.0
    steps_per_epoch: int = 1
    augmentation: Augmentation = PLAIN

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        for name in ("head_lr", "trunk_lr", "weight_decay"):
            value = getattr(self, name)
            require(value is None or 0 <= value < math.inf, name, value, "at least 0 and finite")
        kinds = get_args(LearningRateKind)
        require(self.kind in kinds, "kind", self.kind, "one of " + ", ".join(kinds))
        in_order = list(self.milestones) == sorted(self.milestones) and min(self.milestones, default=1) >= 1
        require(in_order, "milestones", self.milestones, "epochs in order, each at least 1")
        require(self.kind == "steps" or not self.milestones, "milestones", self.milestones, "empty for a cosine")
        require(0 < self.gamma <= 1, "gamma", self.gamma, "in (0, 1]")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        require(self.batch >= 2, "batch", self.batch, "at least 2")
        require(0 < self.share <= 1, "share", self.share, "in (0, 1]")
        require(0 < self.fraction <= 1, "fraction", self.fraction, "in (0, 1]")
        require(self.steps_per_epoch >= 1, "steps_per_epoch", self.steps_per_epoch, "at least 1")
        CropGroup(self.size, 1, self.scale)  # which checks them

    @property
    def crops(self) -> tuple[CropGroup, ...]:
        """The one view of each image, as for a Config."""
        return (CropGroup(self.size, 1, self.scale),)

    @property
    def resolutions(self) -> tuple[tuple[int, int], ...]:
        """(side, how many) of the views, as of a Config."""
        return ((self.size, 1),)

    @property
    def optimizer(self) -> Optimizer:
        """Plain SGD with momentum, for both learning rates."""
        return Optimizer(kind="sgd", momentum=self.momentum, weight_decay=self.weight_decay)

    @property
    def frozen(self) -> bool:
        """Whether the backbone stays as it is."""
        return self.trunk_lr is None


#: The published protocols; the 800-epoch ResNet-50 reaches 75.3, 53.9 and 70.2 % top-1 with them on ImageNet.
RECIPES = MappingProxyType(
    {
        "linear": Supervised(epochs=100, head_lr=0.3, weight_decay=1e-6),
        "semi-1": Supervised(
            epochs=20, head_lr=5.0, trunk_lr=0.02, kind="steps", milestones=(12, 16), gamma=0.2, fraction=0.01
        ),
        "semi-10": Supervised(
            epochs=20, head_lr=0.2, trunk_lr=0.01, kind="steps", milestones=(12, 16), gamma=0.2, fraction=0.1
        ),
    }
)


def recipe(name: str) -> Supervised:
    """The protocol called `name`.

    Raises:
        InvalidInput: there is none of that name.
    """
    require(name in RECIPES, "protocol", name, "one of " + ", ".join(RECIPES))
    return RECIPES[name]


def with_epochs(changed: Supervised, epochs: int) -> Supervised:
    """The protocol over another number of epochs, its milestones at the same shares of them (rounded, at least 1)."""
    milestones = tuple(max(1, round(epoch * epochs / changed.epochs)) for epoch in changed.milestones)
    return dataclasses.replace(changed, epochs=epochs, milestones=milestones)


def with_data(changed: Supervised, samples: int) -> Supervised:
    """The protocol on so many labelled images: batches no larger than that, and full ones only in each epoch.

    Raises:
        InvalidInput: there are fewer than two images, which no batch normalisation can do with.
    """
    require(samples >= 2, "labelled training images", samples, "at least 2")
    batch = min(changed.batch, samples)
    return dataclasses.replace(changed, batch=batch, steps_per_epoch=samples // batch)


def to_dict(config: Supervised) -> dict[str, Any]:
    """The protocol as plain dictionaries, lists and numbers, for JSON."""
    return dataclasses.asdict(config)


def from_dict(data: dict[str, Any]) -> Supervised:
    """The protocol that `to_dict` gave, checked again.

    Raises:
        InvalidInput: a field is unknown, missing or out of range.
    """
    found: Supervised = built(Supervised, data, "protocol")
    return found


class Rates(NamedTuple):
    """Learning rates of an epoch; `trunk` is None where the backbone is frozen."""

    trunk: float | None
    head: float


def lr_of(config: Supervised, epoch: int) -> Rates:
    """The learning rates of epoch number `epoch`, from 0.

    Cosine: lr_e = lr (1 + cos(pi e / E)) / 2, which starts at lr and never reaches 0. Steps: lr gamma^m, m the number
    of milestones <= e.

    Raises:
        InvalidInput: there is no such epoch.
    """
    require(0 <= epoch < config.epochs, "epoch", epoch, f"in 0..{config.epochs - 1}")
    if config.kind == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
    else:
        factor = config.gamma ** sum(milestone <= epoch for milestone in config.milestones)
    return Rates(None if config.trunk_lr is None else config.trunk_lr * factor, config.head_lr * factor)


def rates_of_step(config: Supervised, step: int) -> Rates:
    """The learning rates of step number `step`, from 0.

    Raises:
        InvalidInput: the step lies beyond the last epoch.
    """
    steps = config.epochs * config.steps_per_epoch
    require(0 <= step < steps, "step", step, f"in 0..{steps - 1}, the {config.epochs} epochs")
    return lr_of(config, step // config.steps_per_epoch)


def evaluation_plan(config: Supervised, heights: np.ndarray, widths: np.ndarray) -> CropPlan:
    """One view of each image's middle; images that are as large as the view are shown as they are.

    Args:
        config: its size and share are used.
        heights, widths: [B] of the images in pixels.
    """
    plan = central_plan(config.size, heights, widths, share=config.share)
    whole = central_plan(config.size, heights, widths, share=1)
    alike = (np.asarray(heights) == config.size) & (np.asarray(widths) == config.size)
    (group,) = plan.groups
    box = np.where(alike[None, :, None], whole.groups[0].box, group.box)
    return plan._replace(groups=(group._replace(box=box),))


def check_plan(config: Supervised, plan: CropPlan, *, batch: int | None = None) -> None:
    """Raises InvalidInput unless a plan is of one view of the config's size for each image, `batch` images if given."""
    found = [(group.size, *group.box.shape[:2]) for group in plan.groups]
    wanted = (config.size, 1, len(plan.index) if batch is None else batch)
    require(found == [wanted] and len(plan.index) == wanted[2], "plan's (size, crops, images)", found, f"{[wanted]}")


def check_labels(images: tuple[int, ...], labels: tuple[int, ...]) -> None:
    """Raises InvalidInput unless the shapes are of images [N, H, W, 3] and of one label for each, [N]."""
    require(tuple(labels) == tuple(images[:1]), "labels' shape", tuple(labels), f"{tuple(images[:1])}, one per image")


def labelled_subset(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """The images whose labels are used: equally many of each class, drawn from the seed.

    With C classes that have images at all, N images in all: max(1, round(fraction N / C)) of each, and all of a class
    that has fewer. A larger fraction adds images to those of a smaller one. A fraction of 1 is every image.

    Args:
        labels: [N] integers.
        fraction: in (0, 1].
        seed: 0 <= seed < 2^64.

    Returns:
        [n] int64, positions in increasing order.

    Raises:
        InvalidInput: a number is out of its range.
    """
    labels = np.asarray(labels)
    shaped = labels.ndim == 1 and len(labels) >= 1 and labels.dtype.kind in "iu"
    require(shaped, "labels' shape, type", (labels.shape, str(labels.dtype)), "[N] integers, N >= 1")
    require(0 < fraction <= 1, "fraction", fraction, "in (0, 1]")
    require(0 <= seed < 2**64, "seed", seed, "in 0..2^64-1")
    if fraction == 1:
        return np.arange(len(labels))
    classes = np.unique(labels)
    each = max(1, round(fraction * len(labels) / len(classes)))
    high, low, _, _ = philox4x32((_BLOCK, 0, np.arange(len(labels)), 0), (seed & 0xFFFFFFFF, seed >> 32))
    order = np.argsort(high << np.uint64(32) | low, kind="stable")
    return np.sort(np.concatenate([order[labels[order] == label][:each] for label in classes]))


def backbone_shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the backbone's tensors, batch normalisation's buffers included, in state-dict order."""
    return {name: shape for name, shape in tensor_shapes(network).items() if not name.startswith(_NOT_BACKBONE)}


def classifier_shapes(network: Network, classes: int) -> dict[str, tuple[int, ...]]:
    """The same with the classifier behind it: linear.weight [C, F] and linear.bias [C]."""
    return backbone_shapes(network) | {WEIGHT: (classes, network.features), BIAS: (classes,)}


def initial_tensors(
    network: Network, weights: Mapping[str, np.ndarray], classes: int, seed: int
) -> dict[str, np.ndarray]:
    """Every tensor that a classifier starts from: the backbone's as given, the linear layer's drawn.

    Weights are drawn N(0, .01), biases are 0. Where `weights` holds a linear layer, it is taken instead.

    Args:
        network: its head and prototypes are not used.
        weights: a state dict; its projection head and prototypes are ignored.
        classes: C, at least 2.
        seed: of the linear layer's weights.

    Raises:
        InvalidInput: a tensor is missing, unexpected or of another shape, or there are too few classes.
    """
    require(classes >= 2, "classes", classes, "at least 2")
    shapes = classifier_shapes(network, classes)
    drawn = {
        WEIGHT: named_generator(seed, WEIGHT).normal(0.0, 0.01, shapes[WEIGHT]),
        BIAS: np.zeros(shapes[BIAS]),
    }
    given = {name: value for name, value in weights.items() if not name.startswith(_NOT_BACKBONE)}
    unexpected = sorted(given.keys() - shapes.keys())
    require(not unexpected, "weights unexpected", unexpected, "tensors of this network")
    tensors = drawn | given
    missing = sorted(shapes.keys() - tensors.keys())
    require(not missing, "weights missing", missing, "present")
    for name, shape in shapes.items():
        found = np.shape(tensors[name])
        require(found == shape, f"{name}'s shape", found, f"{shape}, as this network has")
    return {name: np.asarray(tensors[name]) for name in shapes}
