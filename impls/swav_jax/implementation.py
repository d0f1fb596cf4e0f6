"""JAX's column of the contract: Device, Maths, Views and Trainer over the files beside this one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from swav_jax import loss, multicrop, network, optimizer, queue, sinkhorn, supervised, train
from swav_jax.device import JaxDevice
from swav_jax.network import NUMBERS
from swav_jax.supervised import ClassifierArrays, ClassifierState, Program
from swav_jax.train import Arrays, State
from swav_spec.config import Config, Cropped, Execution, Network
from swav_spec.contract import Part
from swav_spec.errors import require
from swav_spec.loss import check_swapped_loss
from swav_spec.multicrop import CropPlan
from swav_spec.network import parameter_names
from swav_spec.queue import is_full
from swav_spec.schedule import StepSettings, step_settings
from swav_spec.sinkhorn import check_sinkhorn
from swav_spec.supervised import Rates, Supervised, check_labels, check_plan, rates_of_step


class JaxImplementation(JaxDevice):
    """Fulfils Device, Maths, Views, Trainer and Classifier on a CPU or GPU.

    Every method is one program, compiled when it first meets its shapes; a training step donates its state's arrays.
    """

    fulfils: ClassVar[tuple[Part, ...]] = ("maths", "views", "trainer", "classifier")
    modes: ClassVar[tuple[str, ...]] = ("jit",)

    def __init__(self, execution: Execution) -> None:
        require(execution.mode in ("default", *self.modes), "mode", execution.mode, "one of " + ", ".join(self.modes))
        super().__init__(execution)
        self._numbers = NUMBERS[execution.precision]
        self._normalize_rows = self.jit(lambda array: optimizer.normalize_rows(sinkhorn.widened(array)))
        self._sinkhorn = self.jit(sinkhorn.sinkhorn, static_argnames=("iterations", "keep"))
        self._swapped_loss = self.jit(loss.swapped_loss, static_argnames="assigned")
        self._queue_read = self.jit(lambda *arrays: queue.queue_read(*map(sinkhorn.widened, arrays), self._numbers))
        self._queue_push = self.jit(queue.queue_push)
        self._larc_sgd = self.jit(_larc_sgd)
        self._views = self.jit(multicrop.views, static_argnames="sizes")
        self._step = self.jit(self._step_program, static_argnums=0, donate_argnums=1)
        self._step_on_views = self.jit(self._step_on_views_program, static_argnums=0, donate_argnums=1)
        self._assess = self.jit(self._assess_program, static_argnums=0)
        self._forward = self.jit(self._forward_program, static_argnums=(0, 3))
        self._encoder_step = self.jit(self._encoder_step_program, static_argnums=0)
        self._embed = self.jit(self._embed_program, static_argnums=0)
        self._classifier_step = self.jit(self._classifier_step_program, static_argnums=0, donate_argnums=1)
        self._classify = self.jit(self._classify_program, static_argnums=0)

    # Maths

    def normalize_rows(self, array: Array) -> Array:
        return self._normalize_rows(array)

    def sinkhorn(
        self,
        scores: Array,
        *,
        epsilon: float,
        iterations: int = 3,
        keep: int | None = None,
        all_max: Callable[[Array], Array] | None = None,
        all_sum: Callable[[Array], Array] | None = None,
    ) -> Array:
        """See the contract. With reductions nothing is jitted here: they may be any Python, or traced by the caller."""
        sharded = all_max is not None or all_sum is not None
        check_sinkhorn(scores.shape, epsilon, iterations, keep, sharded=sharded)
        if sharded:
            return sinkhorn.sinkhorn(
                scores, epsilon=epsilon, iterations=iterations, keep=keep, all_max=all_max, all_sum=all_sum
            )
        return self._sinkhorn(scores, epsilon=epsilon, iterations=iterations, keep=keep)

    def swapped_loss(
        self, scores: Array, codes: Array, *, temperature: float, assigned: tuple[int, ...]
    ) -> tuple[Array, Array]:
        check_swapped_loss(scores.shape, codes.shape, temperature, assigned)
        return self._swapped_loss(scores, codes, temperature=temperature, assigned=tuple(assigned))

    def queue_read(self, queue: Array, count: int, prototypes: Array) -> Array | None:
        return self._queue_read(queue, prototypes) if is_full(count, queue.shape[1]) else None

    def queue_push(self, queue: Array, count: int, embeddings: Array) -> tuple[Array, int]:
        rows, new = queue.shape[1], embeddings.shape[1]
        require(new <= rows, "rows pushed", new, f"at most the queue's {rows}")
        return self._queue_push(queue, embeddings), count + new

    def larc_sgd(
        self,
        params: Mapping[str, Array],
        grads: Mapping[str, Array | None],
        momentum: Mapping[str, Array | None],
        *,
        lr: float,
        weight_decay: float,
        trust: float,
        decay: float = 0.9,
    ) -> tuple[dict[str, Array], dict[str, Array | None]]:
        moved = {name: param for name, param in params.items() if grads[name] is not None}
        buffers = {name: momentum.get(name) for name in params}
        started = {name: jnp.zeros_like(p) if buffers[name] is None else buffers[name] for name, p in moved.items()}
        new_params, new_buffers = self._larc_sgd(
            moved, {name: grads[name] for name in moved}, started, lr, weight_decay, trust, decay
        )
        return dict(params) | new_params, buffers | new_buffers

    # Views

    def views(self, images: Array, plan: CropPlan, config: Cropped) -> list[Array]:
        sizes = tuple(group.size for group in plan.groups)
        return self._views(images, plan, sizes, *self._mean_and_std(config))

    # Trainer

    def init(self, config: Config, weights: Mapping[str, np.ndarray]) -> State:
        return train.new_state(config, weights, self._numbers, self.to_device)

    def step(self, state: State, images: Array, plan: CropPlan) -> tuple[State, dict[str, Array]]:
        config = state.config
        sizes, crops = zip(*config.resolutions, strict=True)
        multicrop.check_plan(plan, sizes, crops, config.batch)
        return self._stepped(state, self._step, images, plan)

    def step_on_views(self, state: State, views: Sequence[Array]) -> tuple[State, dict[str, Array]]:
        return self._stepped(state, self._step_on_views, self._checked(state.config, views))

    def loss_and_grads(self, state: State, views: Sequence[Array]) -> tuple[float, dict[str, np.ndarray]]:
        views = self._checked(state.config, views)
        settings = step_settings(state.config, state.step, state.queue_count)
        value, gradients = self._assess(train.program_of(state.config), state.arrays, views, settings)
        return float(value), {
            name: np.ascontiguousarray(network.exported(name, self.to_host(gradients[name])))
            for name in parameter_names(state.config.network)
        }

    def forward(self, state: State, views: Sequence[Array], *, train: bool) -> tuple[Array, Array, Array]:
        """See the contract. Scores are with the prototypes normalised, as the next step would compute them."""
        return self._forward(_program(state), state.arrays, list(views), train)

    def encoder_step(self, state: State, views: Sequence[Array]) -> Array:
        """See the contract. Returns the sum of the squared gradients."""
        return self._encoder_step(_program(state), state.arrays, list(views))

    def embed(self, state: State, images: Array) -> tuple[Array, Array]:
        features, embeddings, _ = self._embed(_program(state), state.arrays, images)
        return features, embeddings

    def assign(self, state: State, images: Array) -> Array:
        return self._embed(_program(state), state.arrays, images)[2]

    def to_arrays(self, state: State) -> dict[str, np.ndarray]:
        return train.to_arrays(state, self.to_host)

    def from_arrays(self, config: Config, arrays: Mapping[str, np.ndarray]) -> State:
        return train.from_arrays(config, arrays, self._numbers, self.to_device)

    # Classifier

    def init_classifier(
        self, config: Supervised, network: Network, weights: Mapping[str, np.ndarray], classes: int, seed: int
    ) -> ClassifierState:
        return supervised.initial_state(config, network, weights, classes, seed, self._numbers, self.to_device)

    def classifier_step(
        self, state: ClassifierState, images: Array, labels: Array, plan: CropPlan
    ) -> tuple[ClassifierState, dict[str, Array]]:
        check_plan(state.config, plan, batch=state.config.batch)
        check_labels(images.shape, labels.shape)
        rates = rates_of_step(state.config, state.step)
        program = supervised.program_of(state)
        arrays, metrics = self._classifier_step(program, state.arrays, images, labels, plan, rates)
        return supervised.advanced(state, arrays), metrics

    def classify(self, state: ClassifierState, images: Array, plan: CropPlan) -> Array:
        check_plan(state.config, plan)
        arrays = state.arrays
        return self._classify(supervised.program_of(state), arrays.params, arrays.statistics, images, plan)

    def classifier_arrays(self, state: ClassifierState) -> dict[str, np.ndarray]:
        return supervised.classifier_arrays(state, self.to_host)

    def _stepped(self, state: State, program: Callable, *inputs: Any) -> tuple[State, dict[str, Array]]:
        config = state.config
        settings = step_settings(config, state.step, state.queue_count)
        arrays, metrics = program(train.program_of(config), state.arrays, *inputs, settings)
        after = dataclasses.replace(
            state,
            step=state.step + 1,
            queue_count=state.queue_count + (config.batch if settings.push else 0),
            batches=train.next_batches(state),
            arrays=arrays,
        )
        return after, metrics

    @staticmethod
    def _checked(config: Config, views: Sequence[Array]) -> list[Array]:
        found = [tuple(group.shape) for group in views]
        wanted = [(count * config.batch, size, size, 3) for size, count in config.resolutions]
        require(found == wanted, "views' shapes", found, f"{wanted}")
        return list(views)

    def _mean_and_std(self, config: Cropped) -> tuple[np.ndarray, np.ndarray]:
        changes = config.augmentation
        return np.array(changes.mean, self._numbers.master), np.array(changes.std, self._numbers.master)

    # What is traced

    def _step_program(self, config: Config, arrays: Arrays, images: Array, plan: CropPlan, settings: StepSettings):
        sizes = tuple(size for size, _ in config.resolutions)
        views = multicrop.views(images, plan, sizes, *self._mean_and_std(config))
        return train.train_step(config, self._numbers, arrays, views, settings)

    def _step_on_views_program(self, config: Config, arrays: Arrays, views: list[Array], settings: StepSettings):
        return train.train_step(config, self._numbers, arrays, views, settings)

    def _assess_program(self, config: Config, arrays: Arrays, views: list[Array], settings: StepSettings):
        arrays = train.with_normalized_prototypes(arrays)
        outcome = train.assess(config, self._numbers, arrays, views, settings.use_queue)
        return outcome.loss, outcome.gradients

    def _forward_program(self, config: Config, arrays: Arrays, views: list[Array], training: bool):
        return train.run_encoder(config, self._numbers, arrays, views, train=training)

    def _encoder_step_program(self, config: Config, arrays: Arrays, views: list[Array]):
        return train.encoder_step(config, self._numbers, arrays, views)

    def _classifier_step_program(
        self, program: Program, arrays: ClassifierArrays, images: Array, labels: Array, plan: CropPlan, rates: Rates
    ):
        (view,) = multicrop.views(images, plan, (program.config.size,), *self._mean_and_std(program.config))
        return supervised.train_step(program, self._numbers, arrays, view, labels[plan.index], rates)

    def _classify_program(self, program: Program, params, statistics, images: Array, plan: CropPlan):
        (view,) = multicrop.views(images, plan, (program.config.size,), *self._mean_and_std(program.config))
        return supervised.forward(program.network, self._numbers, params, statistics, view, train=False)[0]

    def _embed_program(self, config: Config, arrays: Arrays, images: Array):
        whole = multicrop.normalised(images, *map(jnp.asarray, self._mean_and_std(config)))
        features, embeddings, scores = train.run_encoder(config, self._numbers, arrays, [whole], train=False)
        return features, embeddings, scores.argmax(axis=1)


def _program(state: State) -> Config:
    return train.program_of(state.config)


def _larc_sgd(params, grads, momentum, lr, weight_decay, trust, decay):
    """One update of the contract's larc_sgd by the transformation that training uses."""
    rule = optimizer.larc_sgd(lr, weight_decay=weight_decay, trust=trust, decay=decay)
    state = optax.tree_utils.tree_set(rule.init(params), trace=momentum)
    steps, state = rule.update(grads, state, params)
    return optax.apply_updates(params, steps), optax.tree_utils.tree_get(state, "trace")
