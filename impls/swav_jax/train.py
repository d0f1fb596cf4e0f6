"""One training step as one program, from pixels to updated weights, and the state that it takes and returns.

What changes from step to step (learning rate, freeze, life of the queue) enters as traced scalars, so a whole run is
one program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from swav_jax.loss import swapped_loss
from swav_jax.network import PROTOTYPES, Numbers, encode, exported, imported, prototype_scores
from swav_jax.optimizer import normalize_rows, transformation
from swav_jax.queue import queue_push, queue_read
from swav_jax.sinkhorn import sinkhorn
from swav_spec.config import Config, Schedule
from swav_spec.errors import require
from swav_spec.network import is_buffer, tensor_shapes
from swav_spec.schedule import StepSettings

BATCHES = "num_batches_tracked"


class Arrays(NamedTuple):
    """The part of a state that lives on the device; tensors under their published names, in this column's layouts.

    Attributes:
        params: trained tensors.
        statistics: running means and variances.
        optimizer: Optax's state of the "encoder" and, apart from it because they may be frozen, of the "prototypes".
        queue: [A, R, D], R = 0 where there is none.
    """

    params: dict[str, Array]
    statistics: dict[str, Array]
    optimizer: dict[str, Any]
    queue: Array


@dataclass(frozen=True)
class State:
    """A run between two steps.

    Attributes:
        config: of the run.
        step: how many steps have been taken.
        queue_count: rows that the queue has received per assigned view.
        batches: batches that each normalisation has seen, by the name of its counter in the state dict.
        arrays: the rest, on the device.
    """

    config: Config
    step: int
    queue_count: int
    batches: dict[str, int]
    arrays: Arrays


class Assessment(NamedTuple):
    """A step's loss and all that follows from it, before anything is updated."""

    loss: Array
    gradients: dict[str, Array]
    statistics: dict[str, Array]
    assigned_embeddings: Array
    codes: Array
    finite: Array


def assess(config: Config, numbers: Numbers, arrays: Arrays, views: Sequence[Array], use_queue: Array) -> Assessment:
    """Forward, assignment, loss and backward; the prototypes in `arrays` are normalised already."""
    prototypes = arrays.params[PROTOTYPES]

    def network(params: dict[str, Array]):
        (_, projections), statistics = encode(config.network, numbers, params, arrays.statistics, views, train=True)
        embeddings = normalize_rows(projections.astype(numbers.master))
        return prototype_scores(embeddings, params[PROTOTYPES], numbers), (embeddings, statistics)

    scores, pull_back, (embeddings, statistics) = jax.vjp(network, arrays.params, has_aux=True)
    scores = scores.reshape(config.views, config.batch, -1)
    embeddings = embeddings.reshape(config.views, config.batch, -1)
    own = np.array(config.assigned)

    codes, finite = assign(config, numbers, scores[own], arrays.queue, prototypes, use_queue)
    loss, gradient = swapped_loss(scores, codes, temperature=config.temperature, assigned=config.assigned)
    (gradients,) = pull_back(gradient.reshape(-1, gradient.shape[-1]))
    return Assessment(loss, gradients, statistics, embeddings[own], codes, finite)


def assign(
    config: Config, numbers: Numbers, scores: Array, queue: Array, prototypes: Array, use_queue: Array
) -> tuple[Array, Array]:
    """Codes of the assigned views, with the queue's rows if it is used; one branch of the program or the other runs.

    Args:
        config, numbers: of the run.
        scores: [A, B, K] of the assigned views.
        queue: [A, R, D].
        prototypes: [K, D], normalised.
        use_queue: [] bool, traced.

    Returns:
        Codes [A, B, K], and for each view whether all scores that it was assigned from were finite [A].
    """

    def codes_of(scores: Array) -> tuple[Array, Array]:
        balance = jax.vmap(
            lambda rows: sinkhorn(rows, epsilon=config.epsilon, iterations=config.iterations, keep=config.batch)
        )
        return balance(scores), jnp.isfinite(scores).all(axis=(1, 2))

    if queue.shape[1] == 0:
        return codes_of(scores)
    return lax.cond(
        use_queue,
        lambda: codes_of(jnp.concatenate([queue_read(queue, prototypes, numbers), scores], axis=1)),
        lambda: codes_of(scores),
    )


def with_normalized_prototypes(arrays: Arrays) -> Arrays:
    """The prototypes overwritten by their row-normalised selves, outside the gradient: how every step begins."""
    return arrays._replace(params=arrays.params | {PROTOTYPES: normalize_rows(arrays.params[PROTOTYPES])})


def train_step(
    config: Config, numbers: Numbers, arrays: Arrays, views: Sequence[Array], settings: StepSettings
) -> tuple[Arrays, dict[str, Array]]:
    """The next arrays and the metrics of the contract."""
    arrays = with_normalized_prototypes(arrays)
    outcome = assess(config, numbers, arrays, views, settings.use_queue)
    params, optimizer = update(config, arrays, outcome.gradients, settings)
    queue = arrays.queue
    if queue.shape[1] > 0:
        queue = jnp.where(settings.push, queue_push(queue, outcome.assigned_embeddings), queue)
    metrics = {
        "loss": outcome.loss,
        "lr": jnp.asarray(settings.lr, numbers.master),
        "code_entropy": jax.scipy.special.entr(outcome.codes).sum(axis=-1).mean(),
        "prototypes_used": _count_used(outcome.codes),
        "finite": outcome.finite,
    }
    return Arrays(params, outcome.statistics, optimizer, queue), metrics


def update(
    config: Config, arrays: Arrays, gradients: dict[str, Array], settings: StepSettings
) -> tuple[dict[str, Array], dict[str, Any]]:
    """New parameters and optimiser states; while frozen the prototypes and theirs stay as they are."""
    rule = transformation(config.optimizer, jnp.asarray(settings.lr, gradients[PROTOTYPES].dtype))
    params, states = {}, {}
    for part, old in parts(arrays.params).items():
        steps, state = rule.update({name: gradients[name] for name in old}, arrays.optimizer[part], old)
        new = optax.apply_updates(old, steps)
        if part == "prototypes":
            new, state = jax.tree.map(
                lambda old, new: jnp.where(settings.frozen, old, new), (old, arrays.optimizer[part]), (new, state)
            )
        params |= new
        states[part] = state
    return params, states


def parts(tensors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Tensors by name, split into the encoder's and the prototypes."""
    encoder = {name: tensor for name, tensor in tensors.items() if name != PROTOTYPES}
    return {"encoder": encoder, "prototypes": {PROTOTYPES: tensors[PROTOTYPES]}}


def _count_used(codes: Array) -> Array:
    """How many different prototypes are the largest of some code."""
    largest = codes.argmax(axis=-1).reshape(-1, 1)
    return (largest == jnp.arange(codes.shape[-1], dtype=largest.dtype)).any(axis=0).sum(dtype=jnp.int32)


def run_encoder(
    config: Config, numbers: Numbers, arrays: Arrays, views: Sequence[Array], *, train: bool
) -> tuple[Array, Array, Array]:
    """Features, unit embeddings and scores with the prototypes normalised, as the next step would see them."""
    arrays = with_normalized_prototypes(arrays)
    (features, projections), _ = encode(config.network, numbers, arrays.params, arrays.statistics, views, train=train)
    embeddings = normalize_rows(projections.astype(numbers.master))
    scores = prototype_scores(embeddings, arrays.params[PROTOTYPES], numbers)
    return features.astype(numbers.master), embeddings, scores


def encoder_step(config: Config, numbers: Numbers, arrays: Arrays, views: Sequence[Array]) -> Array:
    """Sum of the squared gradients of backbone and head, for the mean square of the projections as loss."""

    def loss(params: dict[str, Array]) -> Array:
        (_, projections), _ = encode(config.network, numbers, params, arrays.statistics, views, train=True)
        return jnp.square(projections.astype(numbers.master)).mean()

    gradients = jax.grad(loss)(parts(arrays.params)["encoder"])
    return sum(jnp.square(gradient).sum() for gradient in gradients.values())


def program_of(config: Config) -> Config:
    """The config without what a step takes as traced settings: equal for runs that share a compiled program."""
    return dataclasses.replace(config, schedule=Schedule(steps=1, base_lr=0.0), freeze_steps=0, queue_start=0)


def next_batches(state: State) -> dict[str, int]:
    """Batches seen after one more step: the backbone sees one per resolution, the head one in all."""
    runs = len(state.config.resolutions)
    return {name: count + (1 if name.startswith("projection_head.") else runs) for name, count in state.batches.items()}


def new_state(config: Config, weights: Mapping[str, np.ndarray], numbers: Numbers, put) -> State:
    """State at step 0; `put` moves a NumPy array to the device.

    Raises:
        InvalidInput: a tensor is missing, unexpected or of another shape.
    """
    check_arrays(weights, tensor_shapes(config.network), "weights")
    batches = {name: int(value) for name, value in weights.items() if name.endswith(BATCHES)}
    tensors = {
        name: put(imported(name, np.asarray(value, dtype=numbers.master)))
        for name, value in weights.items()
        if name not in batches
    }
    params = {name: tensor for name, tensor in tensors.items() if not is_buffer(name)}
    rule = transformation(config.optimizer, 0.0)
    optimizer = {
        part: jax.tree.map(lambda leaf: put(np.asarray(leaf)), rule.init(owned))
        for part, owned in parts(params).items()
    }
    statistics = {name: tensor for name, tensor in tensors.items() if is_buffer(name)}
    shape = (len(config.assigned), config.queue_rows, config.network.embedding)
    return State(config, 0, 0, batches, Arrays(params, statistics, optimizer, put(np.zeros(shape, numbers.master))))


def check_arrays(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raises InvalidInput unless the arrays are those named, in those shapes."""
    missing = [name for name in shapes if name not in arrays]
    require(not missing, f"{what}, missing", missing, "present")
    unexpected = [name for name in arrays if name not in shapes]
    require(not unexpected, f"{what}, unexpected", unexpected, "absent")
    for name, shape in shapes.items():
        require(np.shape(arrays[name]) == shape, f"{what}, shape of {name}", np.shape(arrays[name]), f"{shape}")


def buffered(config: Config, step: int) -> list[str]:
    """Names of the parameters that have an optimiser buffer after `step` steps: those updated at least once."""
    names = [name for name in tensor_shapes(config.network) if not is_buffer(name)]
    return [name for name in names if step > (config.freeze_steps if name == PROTOTYPES else 0)]


def array_shapes(config: Config, step: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array of a state after `step` steps, as `Trainer.to_arrays` names them."""
    tensors = tensor_shapes(config.network)
    shapes: dict[str, tuple[int, ...]] = {f"model/{name}": shape for name, shape in tensors.items()}
    for kind in _buffers(config):
        shapes |= {f"{kind}/{name}": tensors[name] for name in buffered(config, step)}
    if config.optimizer.kind == "adam":
        shapes["adam_count"] = ()
    if config.queue_rows:
        shapes["queue"] = (len(config.assigned), config.queue_rows, config.network.embedding)
    return shapes | {"queue_count": (), "step": ()}


def _buffers(config: Config) -> dict[str, str]:
    """Prefix of an optimiser's buffers in the arrays -> their name in Optax's state."""
    return {"adam_m": "mu", "adam_v": "nu"} if config.optimizer.kind == "adam" else {"momentum": "trace"}


def to_arrays(state: State, get) -> dict[str, np.ndarray]:
    """See swav_spec.contract.Trainer; `get` copies a device array to NumPy."""
    config, arrays = state.config, state.arrays
    found: dict[str, np.ndarray] = {}
    for name in tensor_shapes(config.network):
        if name in state.batches:
            found[f"model/{name}"] = np.array(state.batches[name], dtype=np.int64)
        else:
            tensor = arrays.params[name] if name in arrays.params else arrays.statistics[name]
            found[f"model/{name}"] = np.ascontiguousarray(exported(name, get(tensor)))
    for prefix, field in _buffers(config).items():
        buffers: dict[str, Array] = {}
        for optimizer in arrays.optimizer.values():
            buffers |= optax.tree_utils.tree_get(optimizer, field)
        for name in buffered(config, state.step):
            found[f"{prefix}/{name}"] = np.ascontiguousarray(exported(name, get(buffers[name])))
    if config.optimizer.kind == "adam":
        found["adam_count"] = np.array(get(optax.tree_utils.tree_get(arrays.optimizer["encoder"], "count")), np.int64)
    if config.queue_rows:
        found["queue"] = get(arrays.queue)
    found["queue_count"] = np.array(state.queue_count, dtype=np.int64)
    found["step"] = np.array(state.step, dtype=np.int64)
    return found


def from_arrays(config: Config, arrays: Mapping[str, np.ndarray], numbers: Numbers, put) -> State:
    """See swav_spec.contract.Trainer; `put` moves a NumPy array to the device."""
    require("step" in arrays and np.shape(arrays["step"]) == (), "arrays, step", arrays.get("step"), "one integer")
    step = int(arrays["step"])
    require(step >= 0, "arrays, step", step, "at least 0")
    check_arrays(arrays, array_shapes(config, step), "arrays")
    model = {name.removeprefix("model/"): value for name, value in arrays.items() if name.startswith("model/")}
    fresh = new_state(config, model, numbers, put)

    optimizer = {}
    for part, initial in fresh.arrays.optimizer.items():
        changes: dict[str, Any] = {}
        for prefix, field in _buffers(config).items():
            changes[field] = {
                name: put(imported(name, np.asarray(arrays[f"{prefix}/{name}"], dtype=numbers.master)))
                if f"{prefix}/{name}" in arrays
                else zeros
                for name, zeros in optax.tree_utils.tree_get(initial, field).items()
            }
        if config.optimizer.kind == "adam":
            # The prototypes' own count starts when their freeze ends.
            count = int(arrays["adam_count"]) - (config.freeze_steps if part == "prototypes" else 0)
            changes["count"] = put(np.array(max(count, 0), dtype=np.int32))
        optimizer[part] = optax.tree_utils.tree_set(initial, **changes)
    queue = put(np.asarray(arrays["queue"], dtype=numbers.master)) if config.queue_rows else fresh.arrays.queue
    return dataclasses.replace(
        fresh,
        step=step,
        queue_count=int(arrays["queue_count"]),
        arrays=fresh.arrays._replace(optimizer=optimizer, queue=queue),
    )
