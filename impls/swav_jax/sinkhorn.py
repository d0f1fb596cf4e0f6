"""Scores to codes: the balanced soft assignment of samples to prototypes (SwAV, section 3.1, equation 3).

N rows of scores (samples; queue rows first), K columns (prototypes). With L = S / epsilon and a shift f per prototype,
an iteration of the specification equals one pass over the rows: P_b = softmax(L_b + f), then f -= log(sum_b P_b).
Only the first pass, f = -logsumexp over rows of L, needs a maximum over rows: after it every sum is at least 1 / K.
That makes T + 1 reads of the scores where the plain loop makes 2 T + 1, and it is finite for every finite score.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

AllReduce = Callable[[Array], Array]


def sinkhorn(
    scores: Array,
    *,
    epsilon: float | Array,
    iterations: int = 3,
    keep: int | None = None,
    all_max: AllReduce | None = None,
    all_sum: AllReduce | None = None,
) -> Array:
    """Codes of the last `keep` rows after a fixed number of Sinkhorn-Knopp iterations.

    Args:
        scores: [N, K], N >= 1 (over all shards together), K >= 1; any finite values.
        epsilon: entropy weight of the transport problem, > 0; may be traced.
        iterations: at least 1.
        keep: how many of the last rows to return; all by default.
        all_max, all_sum: reductions of a [K] array over shards (`lax.pmax`, `lax.psum` under `shard_map`, or any
            function when not traced); a shard may be empty.

    Returns:
        [keep, K] codes, each row summing to 1; float32, or float64 for float64 scores.
    """
    all_max = all_max or _itself
    all_sum = all_sum or _itself
    logits = widened(scores) / epsilon

    top = all_max(logits.max(axis=0, initial=-jnp.inf))
    shift = -(top + jnp.log(all_sum(jnp.exp(logits - top).sum(axis=0))))
    for _ in range(iterations - 1):
        shift = shift - jnp.log(all_sum(jax.nn.softmax(logits + shift, axis=1).sum(axis=0)))
    kept = logits if keep is None else logits[len(logits) - keep :]
    return jax.nn.softmax(kept + shift, axis=1)


def widened(array: Array) -> Array:
    """The array in float32 at least: codes and losses are never computed in less."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _itself(array: Array) -> Array:
    return array
