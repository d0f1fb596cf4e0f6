"""A linear classifier on the backbone's pooled features, trained alone or with it (swav_spec.supervised).

What changes from epoch to epoch, the learning rates, enters as tensors, so one program serves a whole protocol.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from swav_spec.config import Network, Precision
from swav_spec.network import is_buffer
from swav_spec.supervised import BIAS, WEIGHT, Supervised, classifier_shapes, initial_tensors, rates_of_step
from swav_tensorflow import multicrop
from swav_tensorflow.device import TensorFlowDevice
from swav_tensorflow.network import (
    POLICIES,
    Backbone,
    backbone_tensors,
    convolution_pairs,
    from_published,
    to_published,
)
from swav_tensorflow.optimizer import sgd

HEAD = (WEIGHT, BIAS)


class Rates(NamedTuple):
    """The learning rates of a step, as [] tensors on the host (swav_spec.supervised.Rates); 0 for a frozen trunk."""

    trunk: tf.Tensor
    head: tf.Tensor


class ClassifierNetwork(keras.Model):
    """Backbone and linear layer.

    Attributes:
        tensors: published name -> variable, in the order of swav_spec.supervised.classifier_shapes.
    """

    def __init__(self, network: Network, classes: int, precision: Precision):
        wide = "float64" if precision == "float64" else "float32"
        super().__init__(name="classifier", dtype=wide)
        pairs = convolution_pairs(network, precision)
        self.backbone = Backbone(network, pairs, name="backbone", dtype=POLICIES[precision])
        self.linear = keras.layers.Dense(classes, name="linear", dtype=wide)
        self.linear.build((None, network.features))
        self.built = True

        tensors = backbone_tensors(pairs) | {WEIGHT: self.linear.kernel, BIAS: self.linear.bias}
        self.tensors = {name: tensors[name].value for name in classifier_shapes(network, classes)}

    def call(self, view, training=False, track=False):
        """Logits [N, C] of views [N, side, side, 3]; `training` and `track` as for network.SwAV."""
        features = self.backbone(view, training=training, track=track)
        return self.linear(tf.cast(features, self.linear.dtype))


class ClassifierRun:
    """The variables of one classifier and the programs over them.

    Attributes:
        model: backbone and linear layer.
        momentum: name of each parameter that is trained -> buffer, zeros at the start.
    """

    def __init__(self, config: Supervised, network: Network, classes: int, device: TensorFlowDevice) -> None:
        self.config, self.dtype = config, device.dtype
        self.model = ClassifierNetwork(network, classes, device.execution.precision)
        self.trained = {
            name: variable
            for name, variable in self.model.tensors.items()
            if name in HEAD or not (config.frozen or is_buffer(name))
        }
        self.momentum = {name: tf.Variable(tf.zeros_like(p), name="momentum") for name, p in self.trained.items()}
        # Traced when first called.
        self.step = device.compiled(self._step)
        self.classify = device.compiled(self._classify)

    def _step(
        self, images: tf.Tensor, labels: tf.Tensor, plan: multicrop.PlanArrays, rates: Rates
    ) -> dict[str, tf.Tensor]:
        """One step; changes every variable that is trained and returns the metrics."""
        config = self.config
        (view,) = multicrop.views(images, plan, config, self.dtype)
        own = tf.gather(labels, plan.index)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(self.trained.values()))
            logits = self.model(view, training=not config.frozen, track=not config.frozen)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(own, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, self.trained)
        for lr, head in ((rates.trunk, False), (rates.head, True)):
            params = {name: v.value() for name, v in self.trained.items() if (name in HEAD) is head}
            buffers = {name: self.momentum[name].value() for name in params}
            decayed = {name: gradients[name] for name in params}
            settings = {"weight_decay": config.weight_decay, "decay": config.momentum}
            new, momentum = sgd(params, decayed, buffers, lr=lr, **settings)
            for name, value in new.items():
                self.trained[name].assign(value)
                self.momentum[name].assign(momentum[name])
        correct = tf.math.count_nonzero(tf.argmax(logits, axis=1, output_type=own.dtype) == own)
        return {"loss": loss, "correct": correct}

    def _classify(self, images: tf.Tensor, plan: multicrop.PlanArrays) -> tf.Tensor:
        (view,) = multicrop.views(images, plan, self.config, self.dtype)
        return self.model(view)


@dataclass(frozen=True)
class ClassifierState:
    """A classifier between two steps. The variables belong to the newest state of a run alone.

    Attributes:
        config: of the protocol.
        step: steps done.
        run: the variables.
    """

    config: Supervised
    step: int
    run: ClassifierRun


def initial_state(
    config: Supervised,
    network: Network,
    weights: Mapping[str, np.ndarray],
    classes: int,
    seed: int,
    device: TensorFlowDevice,
) -> ClassifierState:
    """State at step 0; see swav_spec.supervised.initial_tensors for what it starts from and raises."""
    arrays = initial_tensors(network, weights, classes, seed)
    run = ClassifierRun(config, network, classes, device)
    for name, variable in run.model.tensors.items():
        variable.assign(from_published(name, arrays[name]).astype(variable.dtype.as_numpy_dtype))
    return ClassifierState(config, step=0, run=run)


def rates(state: ClassifierState, dtype: tf.DType) -> Rates:
    """Learning rates of the next step.

    Raises:
        InvalidInput: the last epoch is over.
    """
    now = rates_of_step(state.config, state.step)
    with tf.device("/CPU:0"):
        return Rates(trunk=tf.constant(now.trunk or 0.0, dtype), head=tf.constant(now.head, dtype))


def advanced(state: ClassifierState) -> ClassifierState:
    """The state after a step whose program has been started."""
    return dataclasses.replace(state, step=state.step + 1)


def classifier_arrays(state: ClassifierState) -> dict[str, np.ndarray]:
    """Every tensor on the host, in the published names and layouts."""
    tensors = state.run.model.tensors
    return {name: np.array(to_published(name, variable.numpy()), order="C") for name, variable in tensors.items()}
