"""The training step, from pixels or from views, as one traced program (SwAV, section 3 and algorithm 1).

What changes from step to step (learning rate, freeze, the life of the queue) enters as tensors, so one program
serves a whole run; the host reads nothing back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from swav_spec.config import Config
from swav_spec.errors import InvalidInput, require
from swav_spec.network import parameter_names, tensor_shapes
from swav_spec.queue import is_full
from swav_spec.schedule import step_settings
from swav_tensorflow import multicrop
from swav_tensorflow.device import TensorFlowDevice
from swav_tensorflow.loss import swapped_loss
from swav_tensorflow.network import SwAV, from_published, to_published
from swav_tensorflow.optimizer import adam, larc_sgd, normalize_rows, sgd
from swav_tensorflow.queue import queue_push, queue_scores
from swav_tensorflow.sinkhorn import sinkhorn

PROTOTYPES = "prototypes.weight"


class Settings(NamedTuple):
    """A step's place in the run, as [] tensors on the host (swav_spec.schedule.StepSettings).

    `updates` and `prototype_updates` count Adam's updates with this one, of all tensors but the prototypes and of
    the prototypes, which are not updated while frozen.
    """

    lr: tf.Tensor
    frozen: tf.Tensor
    push: tf.Tensor
    use_queue: tf.Tensor
    updates: tf.Tensor
    prototype_updates: tf.Tensor


class Result(NamedTuple):
    """What a forward and backward pass gives; nothing has been changed yet."""

    gradients: dict[str, tf.Tensor]
    prototypes: tf.Tensor
    embeddings: tf.Tensor
    metrics: dict[str, tf.Tensor]


class Run:
    """The variables of one run and the programs over them.

    Attributes:
        model: see network.SwAV.
        slots: optimiser's name ("momentum", or "adam_m" and "adam_v") -> parameter's name -> variable.
        queue: [A, R, D] variable, or None.
    """

    def __init__(self, config: Config, device: TensorFlowDevice) -> None:
        self.config, self.dtype = config, device.dtype
        self.model = SwAV(config.network, device.execution.precision)
        kinds = ("adam_m", "adam_v") if config.optimizer.kind == "adam" else ("momentum",)
        self.slots = {
            kind: {name: tf.Variable(tf.zeros_like(p), name=kind) for name, p in self.model.parameters.items()}
            for kind in kinds
        }
        rows = (len(config.assigned), config.queue_rows, config.network.embedding)
        self.queue = tf.Variable(tf.zeros(rows, self.dtype), name="queue") if config.queue_rows else None
        # Traced when first called.
        self.step = device.compiled(self._step)
        self.step_on_views = device.compiled(self._update)
        self.gradients = device.compiled(self._gradients)
        self.encoder_step = device.compiled(self._encoder_step)
        self.forward_train = device.compiled(lambda views: self._forward(views, training=True))
        self.forward = device.compiled(lambda views: self._forward(views, training=False))
        self.embed = device.compiled(self._embed)

    def _step(self, images: tf.Tensor, plan: multicrop.PlanArrays, settings: Settings) -> dict[str, tf.Tensor]:
        return self._update(multicrop.views(images, plan, self.config, self.dtype), settings)

    def _update(self, views: list[tf.Tensor], settings: Settings) -> dict[str, tf.Tensor]:
        """One step; changes every variable of the run and returns the metrics."""
        result = self._pass(views, settings.use_queue, track=True)
        if self.queue is not None:
            pushed, _ = queue_push(self.queue, 0, self._assigned(result.embeddings))
            self.queue.assign(tf.where(settings.push, pushed, self.queue))
        params = {name: variable.value() for name, variable in self.model.parameters.items()}
        params[PROTOTYPES] = result.prototypes
        changed = self._optimized(params, result.gradients, settings)
        for name, variable in self.model.parameters.items():
            variable.assign(changed["params"][name])
        for kind, variables in self.slots.items():
            for name, variable in variables.items():
                variable.assign(changed[kind][name])
        return result.metrics | {"lr": settings.lr}

    def _optimized(self, params, gradients, settings: Settings) -> dict[str, dict[str, tf.Tensor]]:
        """New parameters and slots; while frozen the prototypes' are the old ones."""
        options, lr = self.config.optimizer, settings.lr
        slots = {kind: {name: v.value() for name, v in variables.items()} for kind, variables in self.slots.items()}
        old = {"params": params} | slots
        if options.kind == "adam":
            count = dict.fromkeys(params, settings.updates) | {PROTOTYPES: settings.prototype_updates}
            changed = adam(params, gradients, *slots.values(), count=count, lr=lr, weight_decay=options.weight_decay)
        else:
            common = {"lr": lr, "weight_decay": options.weight_decay, "decay": options.momentum}
            momentum = slots["momentum"]
            if options.kind == "larc_sgd":
                changed = larc_sgd(params, gradients, momentum, trust=options.trust, **common)
            else:
                changed = sgd(params, gradients, momentum, **common)
        new = dict(zip(old, changed, strict=True))
        if self.config.freeze_steps:
            for kind, tensors in new.items():
                tensors[PROTOTYPES] = tf.where(settings.frozen, old[kind][PROTOTYPES], tensors[PROTOTYPES])
        return new

    def _pass(self, views: list[tf.Tensor], use_queue: tf.Tensor, *, track: bool) -> Result:
        """Forward, codes, loss, backward. With `track` the batch's statistics enter the running ones."""
        model, config = self.model, self.config
        prototypes = normalize_rows(model.prototypes.value)
        weights = {name: variable for name, variable in model.parameters.items() if name != PROTOTYPES}
        with tf.GradientTape() as tape:
            # The normalised rows are the leaf: their normalisation is outside the gradient.
            tape.watch(prototypes)
            _, _, embeddings = model(views, training=True, track=track)
            scores = tf.matmul(embeddings, prototypes, transpose_b=True)
        by_view = tf.reshape(scores, [config.views, config.batch, -1])
        codes, finite = self._codes(by_view, prototypes, use_queue)
        loss, gradient = swapped_loss(by_view, codes, temperature=config.temperature, assigned=config.assigned)
        gradients = tape.gradient(
            scores, weights | {PROTOTYPES: prototypes}, output_gradients=tf.reshape(gradient, scores.shape)
        )
        metrics = {"loss": loss, "finite": finite} | _code_metrics(codes)
        return Result(gradients, prototypes, embeddings, metrics)

    def _codes(self, scores: tf.Tensor, prototypes: tf.Tensor, use_queue: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Codes [A, B, K] of the assigned views, and whether the scores given to Sinkhorn were finite [A]."""
        assigned = [scores[view] for view in self.config.assigned]
        if self.queue is None:
            return self._assignments(assigned)

        def with_queue():
            queued = tf.unstack(queue_scores(self.queue, prototypes))
            return self._assignments([tf.concat(pair, axis=0) for pair in zip(queued, assigned, strict=True)])

        return tf.cond(use_queue, with_queue, lambda: self._assignments(assigned))

    def _assignments(self, scores: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        config = self.config
        options = {"epsilon": config.epsilon, "iterations": config.iterations, "keep": config.batch}
        codes = tf.stack([sinkhorn(rows, **options) for rows in scores])
        return codes, tf.stack([tf.reduce_all(tf.math.is_finite(rows)) for rows in scores])

    def _assigned(self, embeddings: tf.Tensor) -> tf.Tensor:
        """[V*B, D] to the assigned views' [A, B, D]."""
        by_view = tf.reshape(embeddings, [self.config.views, self.config.batch, -1])
        return tf.stack([by_view[view] for view in self.config.assigned])

    def _gradients(self, views: list[tf.Tensor], use_queue: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        result = self._pass(views, use_queue, track=False)
        return result.metrics["loss"], result.gradients

    def _forward(self, views: list[tf.Tensor], *, training: bool) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        features, _, embeddings = self.model(views, training=training)
        scores = tf.matmul(embeddings, normalize_rows(self.model.prototypes.value), transpose_b=True)
        return tf.cast(features, self.dtype), embeddings, scores

    def _embed(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return self._forward([multicrop.normalised(images, self.config, self.dtype)], training=False)

    def _encoder_step(self, views: list[tf.Tensor]) -> tf.Tensor:
        weights = [variable for name, variable in self.model.parameters.items() if name != PROTOTYPES]
        with tf.GradientTape() as tape:
            _, outputs, _ = self.model(views, training=True)
            loss = tf.reduce_mean(tf.square(tf.cast(outputs, self.dtype)))
        # Squares, because a plain sum could be moved into the products and spare the gradients.
        return loss + tf.add_n([tf.nn.l2_loss(gradient) for gradient in tape.gradient(loss, weights)])


def _code_metrics(codes: tf.Tensor) -> dict[str, tf.Tensor]:
    """Mean entropy of the codes [A, B, K] in nats, and how many prototypes are some code's largest."""
    entropy = -tf.reduce_mean(tf.reduce_sum(tf.math.xlogy(codes, codes), axis=-1))
    largest = tf.reshape(tf.argmax(codes, axis=-1), [-1])
    hits = tf.math.unsorted_segment_sum(tf.ones_like(largest, tf.float32), largest, codes.shape[-1])
    return {"code_entropy": entropy, "prototypes_used": tf.math.count_nonzero(hits)}


@dataclass(frozen=True)
class State:
    """A run between two steps (contract.State). The variables belong to the newest state of a run alone.

    Attributes:
        queue_count: rows that the queue has received per view.
        updates: of the optimiser.
        buffers: parameters that have been updated, whose momentum therefore exists.
    """

    config: Config
    step: int
    queue_count: int
    updates: int
    buffers: frozenset[str]
    run: Run


def initial_state(config: Config, weights: Mapping[str, np.ndarray], device: TensorFlowDevice) -> State:
    """The state at step 0.

    Raises:
        InvalidInput: a tensor is missing, unexpected or of another shape.
    """
    _check_shapes("weights", weights, tensor_shapes(config.network))
    run = Run(config, device)
    _load_model(run, weights)
    return State(config, step=0, queue_count=0, updates=0, buffers=frozenset(), run=run)


def use_queue(state: State) -> tf.Tensor:
    """Whether the next step's assignment uses the queue, as a [] tensor on the host, where branches are decided."""
    with tf.device("/CPU:0"):
        return tf.constant(is_full(state.queue_count, state.config.queue_rows))


def settings(state: State, dtype: tf.DType) -> Settings:
    """What the next step's program is given.

    Raises:
        InvalidInput: the run's schedule is at its end.
    """
    config = state.config
    now = step_settings(config, state.step, state.queue_count)
    frozen_before = min(config.freeze_steps, state.step)
    with tf.device("/CPU:0"):
        return Settings(
            lr=tf.constant(now.lr, dtype),
            frozen=tf.constant(now.frozen),
            push=tf.constant(now.push),
            use_queue=use_queue(state),
            updates=tf.constant(state.updates + 1, dtype),
            prototype_updates=tf.constant(max(state.updates - frozen_before, 0) + 1, dtype),
        )


def advanced(state: State) -> State:
    """The state after a step whose program has been started."""
    config = state.config
    now = step_settings(config, state.step, state.queue_count)
    updated = set(parameter_names(config.network)) - ({PROTOTYPES} if now.frozen else set())
    return dataclasses.replace(
        state,
        step=state.step + 1,
        queue_count=state.queue_count + (config.batch if now.push else 0),
        updates=state.updates + 1,
        buffers=state.buffers | updated,
    )


def to_arrays(state: State) -> dict[str, np.ndarray]:
    """Everything a run needs to go on (contract.Trainer.to_arrays)."""
    run = state.run
    arrays = {f"model/{name}": _to_host(name, variable) for name, variable in run.model.tensors.items()}
    for kind, variables in run.slots.items():
        arrays |= {f"{kind}/{name}": _to_host(name, v) for name, v in variables.items() if name in state.buffers}
    if "adam_m" in run.slots:
        arrays["adam_count"] = np.array(state.updates, np.int64)
    if run.queue is not None:
        arrays["queue"] = run.queue.numpy().copy()
    arrays["queue_count"] = np.array(state.queue_count, np.int64)
    arrays["step"] = np.array(state.step, np.int64)
    return arrays


def from_arrays(config: Config, arrays: Mapping[str, np.ndarray], device: TensorFlowDevice) -> State:
    """The state that `to_arrays` gave, of this or of another implementation.

    Raises:
        InvalidInput: an array is missing, unexpected or of another shape.
    """
    shapes = tensor_shapes(config.network)
    required = {f"model/{name}": shape for name, shape in shapes.items()} | {"queue_count": (), "step": ()}
    run = Run(config, device)
    if run.queue is not None:
        required["queue"] = tuple(run.queue.shape)
    if "adam_m" in run.slots:
        required["adam_count"] = ()
    parameters = parameter_names(config.network)
    optional = {f"{kind}/{name}": shapes[name] for kind in run.slots for name in parameters}
    # The first kind of slot tells which parameters have been updated; the others must tell the same.
    buffers = frozenset(name for name in parameters if f"{next(iter(run.slots))}/{name}" in arrays)
    required |= {f"{kind}/{name}": shapes[name] for kind in run.slots for name in buffers}
    _check_shapes("arrays", arrays, required, optional)

    _load_model(run, {name: arrays[f"model/{name}"] for name in shapes})
    for kind, variables in run.slots.items():
        for name in buffers:
            _assign(variables[name], name, arrays[f"{kind}/{name}"])
    if run.queue is not None:
        run.queue.assign(np.asarray(arrays["queue"]).astype(run.queue.dtype.as_numpy_dtype))
    step, queue_count = int(arrays["step"]), int(arrays["queue_count"])
    require(0 <= step <= config.schedule.steps, "step", step, f"in 0..{config.schedule.steps}, the schedule")
    require(queue_count >= 0, "queue_count", queue_count, "at least 0")
    updates = int(arrays.get("adam_count", step))
    return State(config, step=step, queue_count=queue_count, updates=updates, buffers=buffers, run=run)


def published_gradients(gradients: Mapping[str, tf.Tensor]) -> dict[str, np.ndarray]:
    """Gradients on the host, in the published names and layouts."""
    return {name: _to_host(name, gradient) for name, gradient in gradients.items()}


def _to_host(name: str, value: tf.Tensor | tf.Variable) -> np.ndarray:
    return np.array(to_published(name, value.numpy()), order="C")


def _load_model(run: Run, weights: Mapping[str, np.ndarray]) -> None:
    for name, variable in run.model.tensors.items():
        _assign(variable, name, weights[name])


def _assign(variable: tf.Variable, name: str, array: np.ndarray) -> None:
    variable.assign(from_published(name, np.asarray(array)).astype(variable.dtype.as_numpy_dtype))


def _check_shapes(what: str, arrays: Mapping[str, np.ndarray], required, optional=None) -> None:
    allowed = (optional or {}) | required
    missing, unexpected = sorted(set(required) - set(arrays)), sorted(set(arrays) - set(allowed))
    misshaped = {
        name: (np.shape(array), tuple(allowed[name]))
        for name, array in arrays.items()
        if name in allowed and np.shape(array) != tuple(allowed[name])
    }
    problems = [f"missing {', '.join(missing)}"] if missing else []
    problems += [f"unexpected {', '.join(unexpected)}"] if unexpected else []
    problems += [f"{name} of shape {shape}, not {wanted}" for name, (shape, wanted) in misshaped.items()]
    if problems:
        raise InvalidInput(f"{what}: must be those of the config; " + "; ".join(problems))


def check_views(config: Config, views: Sequence[tf.Tensor]) -> None:
    """Raises InvalidInput unless there is one array of the right shape for each run of equal resolution."""
    found = [tuple(view.shape) for view in views]
    wanted = [(count * config.batch, side, side, 3) for side, count in config.resolutions]
    require(found == wanted, "views' shapes", found, f"{wanted} for this config")
