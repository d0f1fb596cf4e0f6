"""Updates as Optax transformations: LARC over SGD with momentum (You et al. 2017), plain SGD, and Optax's Adam.

All treat every tensor alike, batch-normalisation parameters and biases included. Weight decay is coupled: wd * p is
added to the gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import Array

from swav_spec.config import Optimizer
from swav_spec.optimizer import LARC_EPSILON


def normalize_rows(array: Array) -> Array:
    """Each row over max(its Euclidean norm, 1e-12), along the last axis: a zero row stays zero."""
    square = jnp.square(array).sum(axis=-1, keepdims=True)
    # The maximum is taken before the root, whose gradient at 0 is infinite.
    return array / jnp.sqrt(jnp.maximum(square, 1e-24))


def scale_by_larc(weight_decay: float | Array, trust: float | Array) -> optax.GradientTransformation:
    """Weight decay and layer-wise scaling. Per tensor p with gradient g:

    g' = (g + weight_decay p) * trust |p| / (|g| + weight_decay |p| + 1e-8)   unless |p| or |g| is 0:  g' = g
    """

    def scaled(g: Array, p: Array) -> Array:
        p_norm, g_norm = _norm(p), _norm(g)
        factor = trust * p_norm / (g_norm + weight_decay * p_norm + LARC_EPSILON)
        return jnp.where((p_norm == 0) | (g_norm == 0), g, (g + weight_decay * p) * factor)

    return optax.stateless(lambda grads, params: jax.tree.map(scaled, grads, params))


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(x)))


def larc_sgd(
    lr: float | Array, *, weight_decay: float | Array, trust: float | Array, decay: float | Array
) -> optax.GradientTransformation:
    """LARC, then buffer = decay buffer + g' and p -= lr buffer: a change of the learning rate acts at once."""
    return optax.chain(scale_by_larc(weight_decay, trust), optax.trace(decay), optax.scale(-lr))


def transformation(settings: Optimizer, lr: float | Array) -> optax.GradientTransformation:
    """The update of a recipe for one step; `lr` may be traced, the state's structure does not depend on it."""
    if settings.kind == "larc_sgd":
        return larc_sgd(lr, weight_decay=settings.weight_decay, trust=settings.trust, decay=settings.momentum)
    decay = optax.add_decayed_weights(settings.weight_decay)
    rule = optax.trace(settings.momentum) if settings.kind == "sgd" else optax.scale_by_adam()
    return optax.chain(decay, rule, optax.scale(-lr))
