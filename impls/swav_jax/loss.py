"""Swapped prediction: each view predicts the codes of the others (SwAV, section 3, equations 1 and 2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from swav_jax.sinkhorn import widened


def swapped_loss(
    scores: Array, codes: Array, *, temperature: float | Array, assigned: tuple[int, ...]
) -> tuple[Array, Array]:
    """Mean cross-entropy between the codes of the assigned views and the predictions of all other views.

    The closed form of swav_spec.loss: with x = S / temperature, w_v the sum of the codes that view v predicts and n_v
    their number,

        loss = s * sum_v (n_v * sum_b logsumexp(x_v) - <w_v, x_v>),   s = 1 / (B A (V-1))
        gradient of S_v = s / temperature * (n_v softmax(x_v) - w_v)

    so that a training step needs no automatic differentiation here: it pulls this gradient back through the network.

    Args:
        scores: [V, B, K].
        codes: [A, B, K], in the order of `assigned`; they carry no gradient.
        temperature: > 0; may be traced.
        assigned: the view that each code belongs to; static.

    Returns:
        The loss [] and its gradient [V, B, K]; float32, or float64 for float64 scores.
    """
    views, batch, _ = scores.shape
    scale = 1 / (batch * len(assigned) * (views - 1))

    logits = widened(scores) / temperature
    targets, counts = targets_of_views(widened(codes), assigned, views)
    counts = counts[:, None, None]
    normalisers = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    loss = scale * (jnp.sum(counts * normalisers) - jnp.sum(targets * logits))
    gradient = scale / temperature * (counts * jnp.exp(logits - normalisers) - targets)
    return loss, gradient


def targets_of_views(codes: Array, assigned: tuple[int, ...], views: int) -> tuple[Array, Array]:
    """For each view, the sum of the codes it predicts (all but its own) [V, B, K], and how many they are [V]."""
    total = codes.sum(axis=0)
    own = {view: position for position, view in enumerate(assigned)}
    targets = jnp.stack([total - codes[own[view]] if view in own else total for view in range(views)])
    counts = [len(assigned) - (view in own) for view in range(views)]
    return targets, jnp.array(counts, dtype=codes.dtype)
