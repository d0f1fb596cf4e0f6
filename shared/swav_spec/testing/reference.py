"""The specification with all its parts, a trainer among them: what every property is first tried on.

Float64 and slow. The maths is that of swav_spec; the network is reference_network's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from swav_spec import loss, multicrop, network, optimizer, queue, schedule, sinkhorn, views
from swav_spec.config import Config, Execution
from swav_spec.contract import Part
from swav_spec.errors import require
from swav_spec.implementation import NumpyImplementation
from swav_spec.testing.reference_network import Pass

PROTOTYPES = "prototypes.weight"


@dataclasses.dataclass(frozen=True)
class State:
    """A run between two steps.

    Attributes:
        model: the state dict, float64. momentum: buffers by parameter, where there are any yet.
        queue: [A, R, D], or None.
    """

    config: Config
    step: int
    queue_count: int
    model: dict[str, np.ndarray]
    momentum: dict[str, np.ndarray]
    queue: np.ndarray | None


class Reference(NumpyImplementation):
    """Maths, Views and Trainer; crop plan, schedule and initial weights beside them, so that these are judged too."""

    fulfils: ClassVar[tuple[Part, ...]] = ("maths", "views", "trainer")

    crop_plan = staticmethod(multicrop.crop_plan)
    initial_weights = staticmethod(network.initial_weights)
    learning_rates = staticmethod(schedule.learning_rates)
    step_settings = staticmethod(schedule.step_settings)

    def __init__(self, execution: Execution | None = None) -> None:
        super().__init__(execution or Execution(precision="float64"))

    def init(self, config: Config, weights: Mapping[str, np.ndarray]) -> State:
        return self.from_arrays(config, {f"model/{name}": value for name, value in weights.items()})

    def step(self, state: State, images: np.ndarray, plan: multicrop.CropPlan) -> tuple[State, dict[str, Any]]:
        return self.step_on_views(state, self.views(images, plan, state.config))

    def step_on_views(self, state: State, views: Sequence[np.ndarray]) -> tuple[State, dict[str, Any]]:
        config = state.config
        settings = schedule.step_settings(config, state.step, state.queue_count)
        passed, value, codes, finite, grads = self._predict(state, views)
        model = _normalised(state.model) | passed.buffers

        embeddings = _by_view(passed.embeddings, config)[list(config.assigned)]
        held, count = state.queue, state.queue_count
        if settings.push:
            held, count = queue.queue_push(held, count, embeddings)
        if settings.frozen:
            grads[PROTOTYPES] = None
        names = network.parameter_names(config.network)
        params = {name: model[name] for name in names}
        new, momentum = self._update(config, params, grads, state.momentum, settings.lr)
        entropy = -np.sum(codes * np.log(np.maximum(codes, np.finfo(codes.dtype).tiny)), axis=-1).mean()
        metrics = {
            "loss": np.float64(value),
            "lr": np.float64(settings.lr),
            "code_entropy": entropy,
            "prototypes_used": np.int64(len(np.unique(codes.argmax(axis=-1)))),
            "finite": np.array(finite),
        }
        after = dataclasses.replace(
            state,
            step=state.step + 1,
            queue_count=count,
            model=model | new,
            momentum={name: buffer for name, buffer in momentum.items() if buffer is not None},
            queue=held,
        )
        return after, metrics

    def _update(self, config: Config, params, grads, momentum, lr: float):
        chosen = config.optimizer
        common = {"lr": lr, "weight_decay": chosen.weight_decay, "decay": chosen.momentum}
        require(chosen.kind != "adam", "optimizer.kind", chosen.kind, "larc_sgd or sgd for the reference")
        if chosen.kind == "sgd":
            return optimizer.sgd(params, grads, momentum, **common)
        return optimizer.larc_sgd(params, grads, momentum, trust=chosen.trust, **common)

    def _predict(self, state: State, views: Sequence[np.ndarray]):
        """Forward, codes, loss, and gradients of every parameter, codes held fixed."""
        config = state.config
        model = _normalised(state.model)
        passed = Pass(config.network, model, views, train=True)
        scores = _by_view(passed.scores, config)
        queued = None
        if schedule.step_settings(config, state.step, state.queue_count).use_queue:
            queued = queue.queue_read(state.queue, state.queue_count, model[PROTOTYPES])
        given = [
            scores[view] if queued is None else np.concatenate([queued[at], scores[view]])
            for at, view in enumerate(config.assigned)
        ]
        finite = [bool(np.isfinite(rows).all()) for rows in given]
        settings = {"epsilon": config.epsilon, "iterations": config.iterations, "keep": scores.shape[1]}
        codes = np.stack(
            [
                sinkhorn.sinkhorn(rows, **settings) if fine else np.full(scores.shape[1:], np.nan)
                for rows, fine in zip(given, finite, strict=True)
            ]
        )
        value, gradient = loss.swapped_loss(scores, codes, temperature=config.temperature, assigned=config.assigned)
        grads = passed.backward(gradient.reshape(passed.scores.shape))
        return passed, value, codes, finite, grads

    def loss_and_grads(self, state: State, views: Sequence[np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
        _, value, _, _, grads = self._predict(state, views)
        return value, grads

    def forward(
        self, state: State, views: Sequence[np.ndarray], *, train: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        passed = Pass(state.config.network, _normalised(state.model), views, train=train)
        return passed.features, passed.embeddings, passed.scores

    def encoder_step(self, state: State, views: Sequence[np.ndarray]) -> np.ndarray:
        passed = Pass(state.config.network, state.model, views, train=True)
        grads = passed.backward_head(2 * passed.head / passed.head.size)
        return np.float64(sum(np.square(gradient).sum() for gradient in grads.values()))

    def embed(self, state: State, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features, embeddings, _ = self.forward(state, [views.normalised(images, state.config)], train=False)
        return features, embeddings

    def assign(self, state: State, images: np.ndarray) -> np.ndarray:
        _, _, scores = self.forward(state, [views.normalised(images, state.config)], train=False)
        return scores.argmax(axis=1)

    def to_arrays(self, state: State) -> dict[str, np.ndarray]:
        arrays = {f"model/{name}": np.array(value) for name, value in state.model.items()}
        arrays |= {f"momentum/{name}": np.array(value) for name, value in state.momentum.items()}
        if state.queue is not None:
            arrays["queue"] = np.array(state.queue)
        return arrays | {"queue_count": np.array(state.queue_count), "step": np.array(state.step)}

    def from_arrays(self, config: Config, arrays: Mapping[str, np.ndarray]) -> State:
        shapes = network.tensor_shapes(config.network)
        model = {
            name.removeprefix("model/"): np.asarray(value, dtype=np.int64 if "num_" in name else np.float64)
            for name, value in arrays.items()
            if name.startswith("model/")
        }
        given = {name: value.shape for name, value in model.items()}
        wrong = sorted(name for name in shapes.keys() | given.keys() if shapes.get(name) != given.get(name))
        require(not wrong, "tensors", wrong, "present once each, in the network's shapes")
        momentum = {
            name.removeprefix("momentum/"): np.asarray(value, dtype=np.float64)
            for name, value in arrays.items()
            if name.startswith("momentum/")
        }
        held = (len(config.assigned), config.queue_rows, config.network.embedding)
        rows = np.asarray(arrays.get("queue", np.zeros(held)), dtype=np.float64)
        require(rows.shape == held, "queue's shape", rows.shape, f"{held}")
        return State(
            config=config,
            step=int(arrays.get("step", 0)),
            queue_count=int(arrays.get("queue_count", 0)),
            model=model,
            momentum=momentum,
            queue=rows if config.queue_rows else None,
        )


def _normalised(model: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return model | {PROTOTYPES: optimizer.normalize_rows(model[PROTOTYPES])}


def _by_view(rows: np.ndarray, config: Config) -> np.ndarray:
    """[V*B, ...] crop-major to [V, B, ...]."""
    return rows.reshape(config.views, -1, *rows.shape[1:])
