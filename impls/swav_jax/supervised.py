"""A linear classifier on the backbone's pooled features, trained alone or with it (swav_spec.supervised).

A step is a pure function of arrays; the learning rates enter as traced scalars, so a whole protocol is one program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from swav_jax.network import Numbers, exported, imported, pooled_features
from swav_jax.optimizer import transformation
from swav_jax.train import BATCHES
from swav_spec.config import Network
from swav_spec.network import is_buffer
from swav_spec.supervised import BIAS, WEIGHT, Rates, Supervised, classifier_shapes, initial_tensors


class ClassifierArrays(NamedTuple):
    """The part of a state that lives on the device; tensors under their published names, in this column's layouts.

    Attributes:
        params: of backbone and linear layer.
        statistics: running means and variances.
        optimizer: Optax's state of the "head" and, where it is trained, of the "trunk".
    """

    params: dict[str, Array]
    statistics: dict[str, Array]
    optimizer: dict[str, Any]


@dataclass(frozen=True)
class ClassifierState:
    """A classifier between two steps.

    Attributes:
        config: of the protocol.
        network: whose backbone it has.
        step: steps done.
        batches: batches that each normalisation has seen, by the name of its counter in the state dict.
        arrays: the rest, on the device.
    """

    config: Supervised
    network: Network
    step: int
    batches: dict[str, int]
    arrays: ClassifierArrays


class Program(NamedTuple):
    """What a compiled step depends on, besides shapes."""

    config: Supervised
    network: Network


def train_step(
    program: Program, numbers: Numbers, arrays: ClassifierArrays, view: Array, labels: Array, rates: Rates
) -> tuple[ClassifierArrays, dict[str, Array]]:
    """The next arrays and the metrics of the contract, for views [B, size, size, 3] and their labels [B]."""
    frozen = program.config.frozen
    owned = parts(arrays.params, frozen=frozen)

    def loss_of(owned: dict[str, dict[str, Array]]):
        params = arrays.params | {name: tensor for part in owned.values() for name, tensor in part.items()}
        logits, statistics = forward(program.network, numbers, params, arrays.statistics, view, train=not frozen)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, ((logits.argmax(axis=1) == labels).sum(dtype=jnp.int32), statistics)

    (loss, (correct, statistics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(owned)
    params, states = dict(arrays.params), {}
    for part, old in owned.items():
        rule = transformation(program.config.optimizer, jnp.asarray(getattr(rates, part), numbers.master))
        steps, states[part] = rule.update(gradients[part], arrays.optimizer[part], old)
        params |= optax.apply_updates(old, steps)
    return ClassifierArrays(params, statistics, states), {"loss": loss, "correct": correct}


def forward(
    network: Network,
    numbers: Numbers,
    params: Mapping[str, Array],
    statistics: Mapping[str, Array],
    view: Array,
    *,
    train: bool,
) -> tuple[Array, dict[str, Array]]:
    """Logits [N, C] of views [N, size, size, 3], and the new running statistics (the old ones unless `train`)."""
    trunk = {name: tensor for name, tensor in params.items() if name not in (WEIGHT, BIAS)}
    features, statistics = pooled_features(network, numbers, trunk, statistics, view, train=train)
    logits = jnp.matmul(features.astype(numbers.master), params[WEIGHT], precision=numbers.after_head) + params[BIAS]
    return logits, statistics


def parts(tensors: Mapping[str, Array], *, frozen: bool) -> dict[str, dict[str, Array]]:
    """Parameters by name, split into those of each learning rate; without the trunk where it is frozen."""
    head = {name: tensors[name] for name in (WEIGHT, BIAS)}
    if frozen:
        return {"head": head}
    return {"trunk": {name: tensor for name, tensor in tensors.items() if name not in head}, "head": head}


def program_of(state: ClassifierState) -> Program:
    """The config without what a step takes as traced learning rates: equal where a compiled program can be shared."""
    trunk_lr = None if state.config.frozen else 0.0
    config = dataclasses.replace(
        state.config, epochs=1, steps_per_epoch=1, head_lr=0.0, trunk_lr=trunk_lr, kind="cosine", milestones=()
    )
    return Program(config, state.network)


def advanced(state: ClassifierState, arrays: ClassifierArrays) -> ClassifierState:
    """The state after a step that gave these arrays."""
    seen = 0 if state.config.frozen else 1
    batches = {name: count + seen for name, count in state.batches.items()}
    return dataclasses.replace(state, step=state.step + 1, batches=batches, arrays=arrays)


def initial_state(
    config: Supervised,
    network: Network,
    weights: Mapping[str, np.ndarray],
    classes: int,
    seed: int,
    numbers: Numbers,
    put,
) -> ClassifierState:
    """State at step 0; see swav_spec.supervised.initial_tensors. `put` moves a NumPy array to the device."""
    arrays = initial_tensors(network, weights, classes, seed)
    batches = {name: int(value) for name, value in arrays.items() if name.endswith(BATCHES)}
    tensors = {
        name: put(imported(name, value.astype(numbers.master))) for name, value in arrays.items() if name not in batches
    }
    params = {name: tensor for name, tensor in tensors.items() if not is_buffer(name)}
    statistics = {name: tensor for name, tensor in tensors.items() if is_buffer(name)}
    rule = transformation(config.optimizer, 0.0)
    optimizer = {
        part: jax.tree.map(lambda leaf: put(np.asarray(leaf)), rule.init(owned))
        for part, owned in parts(params, frozen=config.frozen).items()
    }
    return ClassifierState(config, network, 0, batches, ClassifierArrays(params, statistics, optimizer))


def classifier_arrays(state: ClassifierState, get) -> dict[str, np.ndarray]:
    """Every tensor in the published names and layouts; `get` copies a device array to NumPy."""
    arrays = state.arrays
    classes = arrays.params[BIAS].shape[0]
    found = {}
    for name in classifier_shapes(state.network, classes):
        if name in state.batches:
            found[name] = np.array(state.batches[name], dtype=np.int64)
        else:
            tensor = arrays.params[name] if name in arrays.params else arrays.statistics[name]
            found[name] = np.ascontiguousarray(exported(name, get(tensor)))
    return found
