"""Scores to codes: the balanced soft assignment of samples to prototypes (SwAV, section 3.1, equation 3).

N rows of scores (samples; queue rows first), K columns (prototypes). With L = S / epsilon and one shift f per
prototype, an iteration is one pass over L: P = softmax(L + f), then f -= log of P's column sums. That is T + 1
readings of L for T iterations, where the plain form needs 2 T + 1; the column sums are at least 1 / K, so their
logarithm is finite whatever the scores.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from swav_spec.sinkhorn import check_sinkhorn

AllReduce = Callable[[tf.Tensor], tf.Tensor]


def sinkhorn(
    scores: tf.Tensor,
    *,
    epsilon: float,
    iterations: int = 3,
    keep: int | None = None,
    all_max: AllReduce | None = None,
    all_sum: AllReduce | None = None,
) -> tf.Tensor:
    """Codes of the last `keep` rows after a fixed number of Sinkhorn-Knopp iterations.

    Args:
        scores: [N, K], N >= 1 (over all shards together), K >= 1; float64 stays, everything else becomes float32.
        epsilon: entropy weight of the transport problem, > 0; smaller gives sharper codes.
        iterations: T, at least 1.
        keep: how many of the last rows to return; all by default.
        all_max, all_sum: reductions of a [K] tensor over shards, where the rows are spread over several;
            a shard may be empty.

    Returns:
        [keep, K], non-negative, each row summing to 1; finite for finite scores.

    Raises:
        InvalidInput: a shape, epsilon, iterations or keep is out of its limits. Values are not checked.
    """
    sharded = all_max is not None or all_sum is not None
    check_sinkhorn(tuple(scores.shape), epsilon, iterations, keep, sharded=sharded)
    all_max = all_max or tf.identity
    all_sum = all_sum or tf.identity

    logits = widen(scores) / epsilon
    top = all_max(tf.reduce_max(logits, axis=0))
    shift = -(top + tf.math.log(all_sum(tf.reduce_sum(tf.exp(logits - top), axis=0))))
    for _ in range(iterations - 1):
        assignment = tf.nn.softmax(logits + shift)
        shift -= tf.math.log(all_sum(tf.reduce_sum(assignment, axis=0)))
    kept = logits if keep is None else logits[logits.shape[0] - keep :]
    return tf.nn.softmax(kept + shift)


def widen(array: tf.Tensor) -> tf.Tensor:
    """float64 as it is, everything else as float32."""
    return array if array.dtype == tf.float64 else tf.cast(array, tf.float32)
