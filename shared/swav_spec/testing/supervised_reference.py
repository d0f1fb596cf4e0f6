"""The specification as a Classifier: linear layer and backbone in NumPy float64, forward, backward and update.

What the columns' classifiers are compared with. Slow, and meant for networks of a few channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from swav_spec.config import Execution, Network
from swav_spec.contract import Part
from swav_spec.implementation import NumpyImplementation
from swav_spec.multicrop import CropPlan
from swav_spec.network import is_buffer
from swav_spec.optimizer import sgd
from swav_spec.supervised import (
    BIAS,
    WEIGHT,
    Supervised,
    check_labels,
    check_plan,
    initial_tensors,
    rates_of_step,
)
from swav_spec.testing.reference_network import Layers


@dataclasses.dataclass(frozen=True)
class State:
    """A classifier between two steps.

    Attributes:
        tensors: as of swav_spec.supervised.classifier_shapes, float64 (batch counts int64).
        momentum: buffers by parameter, where there are any yet.
    """

    config: Supervised
    network: Network
    step: int
    tensors: dict[str, np.ndarray]
    momentum: dict[str, np.ndarray]


class SupervisedReference(NumpyImplementation):
    """Maths, Views and Classifier."""

    fulfils: ClassVar[tuple[Part, ...]] = ("maths", "views", "classifier")

    def __init__(self, execution: Execution | None = None) -> None:
        super().__init__(execution or Execution(precision="float64"))

    def init_classifier(
        self, config: Supervised, network: Network, weights: Mapping[str, np.ndarray], classes: int, seed: int
    ) -> State:
        tensors = {
            name: value.astype(np.int64 if name.endswith("num_batches_tracked") else np.float64)
            for name, value in initial_tensors(network, weights, classes, seed).items()
        }
        return State(config, network, step=0, tensors=tensors, momentum={})

    def classifier_step(
        self, state: State, images: np.ndarray, labels: np.ndarray, plan: CropPlan
    ) -> tuple[State, dict[str, Any]]:
        config = state.config
        check_plan(config, plan, batch=config.batch)
        check_labels(images.shape, labels.shape)
        rates = rates_of_step(config, state.step)
        (views,) = self.views(images, plan, config)
        loss, logits, gradients, buffers = loss_and_gradients(state, views, labels[plan.index])
        settings = {"weight_decay": config.weight_decay, "decay": config.momentum}
        tensors, momentum = state.tensors | buffers, dict(state.momentum)
        for lr, names in ((rates.trunk, trunk_names(state)), (rates.head, [WEIGHT, BIAS])):
            if lr is not None:
                params = {name: tensors[name] for name in names}
                new, buffered = sgd(params, gradients, momentum, lr=lr, **settings)
                tensors, momentum = tensors | new, momentum | buffered
        correct = np.int64((logits.argmax(axis=1) == labels[plan.index]).sum())
        after = dataclasses.replace(state, step=state.step + 1, tensors=tensors, momentum=momentum)
        return after, {"loss": loss, "correct": correct}

    def classify(self, state: State, images: np.ndarray, plan: CropPlan) -> np.ndarray:
        check_plan(state.config, plan)
        (views,) = self.views(images, plan, state.config)
        layers = Layers(state.network, state.tensors, train=False)
        features, _ = layers.backbone(np.moveaxis(views, -1, 1))
        return layers.linear(features, "linear")[0]

    def classifier_arrays(self, state: State) -> dict[str, np.ndarray]:
        return {name: np.array(value) for name, value in state.tensors.items()}


def trunk_names(state: State) -> list[str]:
    """The backbone's parameters."""
    return [name for name in state.tensors if not is_buffer(name) and name not in (WEIGHT, BIAS)]


def loss_and_gradients(
    state: State, views: np.ndarray, labels: np.ndarray
) -> tuple[np.float64, np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Mean cross-entropy of views [B, size, size, 3], and all that follows from it.

    Returns:
        The loss, logits [B, C], gradients of the parameters that are trained, and the BN buffers after the pass, none
        where the backbone is frozen.
    """
    frozen = state.config.frozen
    layers = Layers(state.network, state.tensors, train=not frozen)
    features, backbone = layers.backbone(np.moveaxis(views, -1, 1))
    logits, linear = layers.linear(features, "linear")
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    own = np.eye(logits.shape[1])[labels]
    slope = linear((np.exp(logs) - own) / len(labels))
    if not frozen:
        backbone(slope)
    loss = np.float64(-(own * logs).sum(axis=1).mean())
    return loss, logits, layers.gradients, {} if frozen else layers.buffers
