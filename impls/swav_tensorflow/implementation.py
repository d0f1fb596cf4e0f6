"""SwAV in TensorFlow as the contract wants it: device, maths, views, trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import tensorflow as tf

from swav_spec.config import Config, Cropped, Execution, Network
from swav_spec.contract import Part
from swav_spec.multicrop import CropPlan
from swav_spec.supervised import Supervised, check_labels, check_plan
from swav_tensorflow import loss, multicrop, optimizer, queue, sinkhorn, supervised, train
from swav_tensorflow.device import MODES, TensorFlowDevice
from swav_tensorflow.supervised import ClassifierState
from swav_tensorflow.train import State


class TensorFlowImplementation(TensorFlowDevice):
    """Everything in the contract, in the modes "graph" (tf.function) and "xla" (tf.function with jit_compile)."""

    fulfils: ClassVar[tuple[Part, ...]] = ("maths", "views", "trainer", "classifier")
    modes: ClassVar[tuple[str, ...]] = MODES

    def __init__(self, execution: Execution) -> None:
        super().__init__(execution)
        self._views: dict[Cropped, Callable] = {}

    # Maths: plain functions, which run eagerly here and are traced as part of a step.

    normalize_rows = staticmethod(optimizer.normalize_rows)
    sinkhorn = staticmethod(sinkhorn.sinkhorn)
    swapped_loss = staticmethod(loss.swapped_loss)
    queue_read = staticmethod(queue.queue_read)
    queue_push = staticmethod(queue.queue_push)
    larc_sgd = staticmethod(optimizer.larc_sgd)

    # Views.

    def views(self, images: tf.Tensor, plan: CropPlan, config: Cropped) -> list[tf.Tensor]:
        """One [C*B, side, side, 3] tensor per run of equal resolution (contract.Views.views)."""
        arrays = self._plan(plan, config)
        if config not in self._views:
            self._views[config] = self.compiled(lambda *given: multicrop.views(*given, config, self.dtype))
        with tf.device(self.device_name):
            return self._views[config](images, arrays)

    # Trainer.

    def init(self, config: Config, weights: Mapping[str, np.ndarray]) -> State:
        """State at step 0 from a state dict (contract.Trainer.init)."""
        with tf.device(self.device_name):
            return train.initial_state(config, weights, self)

    def step(self, state: State, images: tf.Tensor, plan: CropPlan) -> tuple[State, dict[str, tf.Tensor]]:
        """One training step from pixels (contract.Trainer.step)."""
        arrays, settings = self._plan(plan, state.config), train.settings(state, self.dtype)
        with tf.device(self.device_name):
            metrics = state.run.step(images, arrays, settings)
        return train.advanced(state), metrics

    def step_on_views(self, state: State, views: Sequence[tf.Tensor]) -> tuple[State, dict[str, tf.Tensor]]:
        """One training step from ready-made views (contract.Trainer.step_on_views)."""
        train.check_views(state.config, views)
        settings = train.settings(state, self.dtype)
        with tf.device(self.device_name):
            metrics = state.run.step_on_views(list(views), settings)
        return train.advanced(state), metrics

    def loss_and_grads(self, state: State, views: Sequence[tf.Tensor]) -> tuple[float, dict[str, np.ndarray]]:
        """Loss of the step that would come next, and its gradients on the host (contract.Trainer.loss_and_grads)."""
        train.check_views(state.config, views)
        with tf.device(self.device_name):
            value, gradients = state.run.gradients(list(views), train.use_queue(state))
        return float(value), train.published_gradients(gradients)

    def forward(
        self, state: State, views: Sequence[tf.Tensor], *, train: bool
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Features, embeddings and scores, crop-major (contract.Trainer.forward)."""
        with tf.device(self.device_name):
            return (state.run.forward_train if train else state.run.forward)(list(views))

    def encoder_step(self, state: State, views: Sequence[tf.Tensor]) -> tf.Tensor:
        """Forward and backward of backbone and head alone (contract.Trainer.encoder_step)."""
        with tf.device(self.device_name):
            return state.run.encoder_step(list(views))

    def embed(self, state: State, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Features [N, F] and unit embeddings [N, D] of whole images (contract.Trainer.embed)."""
        with tf.device(self.device_name):
            features, embeddings, _ = state.run.embed(images)
        return features, embeddings

    def assign(self, state: State, images: tf.Tensor) -> tf.Tensor:
        """[N] int64: the prototype of the largest score of each whole image (contract.Trainer.assign)."""
        with tf.device(self.device_name):
            _, _, scores = state.run.embed(images)
            return tf.argmax(scores, axis=-1)

    def to_arrays(self, state: State) -> dict[str, np.ndarray]:
        """Everything a run needs to go on (contract.Trainer.to_arrays)."""
        return train.to_arrays(state)

    def from_arrays(self, config: Config, arrays: Mapping[str, np.ndarray]) -> State:
        """The state that `to_arrays` gave (contract.Trainer.from_arrays)."""
        with tf.device(self.device_name):
            return train.from_arrays(config, arrays, self)

    # Classifier.

    def init_classifier(
        self, config: Supervised, network: Network, weights: Mapping[str, np.ndarray], classes: int, seed: int
    ) -> ClassifierState:
        """State at step 0 (contract.Classifier.init_classifier)."""
        with tf.device(self.device_name):
            return supervised.initial_state(config, network, weights, classes, seed, self)

    def classifier_step(
        self, state: ClassifierState, images: tf.Tensor, labels: tf.Tensor, plan: CropPlan
    ) -> tuple[ClassifierState, dict[str, tf.Tensor]]:
        """One step on one view of each image (contract.Classifier.classifier_step)."""
        check_plan(state.config, plan, batch=state.config.batch)
        check_labels(images.shape, labels.shape)
        arrays, rates = self._plan(plan, state.config), supervised.rates(state, self.dtype)
        with tf.device(self.device_name):
            metrics = state.run.step(images, labels, arrays, rates)
        return supervised.advanced(state), metrics

    def classify(self, state: ClassifierState, images: tf.Tensor, plan: CropPlan) -> tf.Tensor:
        """Logits of one view of each image (contract.Classifier.classify)."""
        check_plan(state.config, plan)
        arrays = self._plan(plan, state.config)
        with tf.device(self.device_name):
            return state.run.classify(images, arrays)

    def classifier_arrays(self, state: ClassifierState) -> dict[str, np.ndarray]:
        """Every tensor on the host (contract.Classifier.classifier_arrays)."""
        return supervised.classifier_arrays(state)

    def _plan(self, plan: CropPlan, config: Cropped) -> multicrop.PlanArrays:
        arrays = multicrop.plan_arrays(plan, config, self.dtype.as_numpy_dtype)
        with tf.device("/CPU:0"):
            return tf.nest.map_structure(tf.constant, arrays)
