"""Scores to codes: the balanced soft assignment of samples to prototypes (SwAV, section 3.1, equation 3).

N rows of scores (samples; queue rows first), K columns (prototypes). With L = S / epsilon the codes are
diag(u) exp(L) diag(v), found by scaling prototypes and samples in turn; on logarithms u and v become shifts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from swav_spec.errors import require

AllReduce = Callable[[np.ndarray], np.ndarray]


def sinkhorn(
    scores: np.ndarray,
    *,
    epsilon: float,
    iterations: int = 3,
    keep: int | None = None,
    all_max: AllReduce | None = None,
    all_sum: AllReduce | None = None,
) -> np.ndarray:
    """Codes of the last `keep` rows after a fixed number of Sinkhorn-Knopp iterations.

    Each iteration gives every prototype the same total weight, then every sample weight 1, so samples are
    exact and prototypes approximate. Neither the number of samples nor of prototypes enters: a common
    factor of all prototypes cancels when the samples are normalised.

    Args:
        scores: [N, K], N >= 1 (over all shards together), K >= 1; cosines in SwAV, any finite values allowed.
        epsilon: entropy weight of the transport problem, > 0; smaller gives sharper codes.
        iterations: at least 1; with none the result would not be an assignment.
        keep: how many of the last rows to return; all by default.
        all_max, all_sum: reductions of a [K] array over shards, where the rows are spread over several;
            a shard may be empty.

    Returns:
        [keep, K] float64, non-negative, each row summing to 1.

    Raises:
        InvalidInput: a limit above is broken, or a score is not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    sharded = all_max is not None or all_sum is not None
    check_sinkhorn(scores.shape, epsilon, iterations, keep, sharded=sharded)
    require(bool(np.isfinite(scores).all()), "scores", "not finite", "finite numbers")
    all_max = all_max or _itself
    all_sum = all_sum or _itself

    logits = scores / epsilon
    sample_shift = np.zeros((len(logits), 1))
    # Global maxima keep every exponential of the first iteration in range; later ones reuse the same form.
    prototype_shift = np.zeros(scores.shape[1])
    for _ in range(iterations):
        shifted = logits + sample_shift
        top = all_max(shifted.max(axis=0, initial=-np.inf))
        prototype_shift = -(top + np.log(all_sum(np.exp(shifted - top).sum(axis=0))))
        sample_shift = -logsumexp(logits + prototype_shift)
    kept = logits if keep is None else logits[len(logits) - keep :]
    return softmax(kept + prototype_shift)


def check_sinkhorn(
    shape: tuple[int, ...], epsilon: float, iterations: int, keep: int | None, *, sharded: bool = False
) -> None:
    """Raises InvalidInput if the arguments of an assignment break a limit; every column calls it."""
    require(
        len(shape) == 2 and shape[1] >= 1 and (sharded or shape[0] >= 1), "scores' shape", shape, "[N >= 1, K >= 1]"
    )
    require(0 < epsilon < np.inf, "epsilon", epsilon, "greater than 0")
    require(iterations >= 1, "iterations", iterations, "at least 1")
    require(keep is None or 0 <= keep <= shape[0], "keep", keep, f"in 0..{shape[0]}, the rows of scores")


def logsumexp(logits: np.ndarray) -> np.ndarray:
    """The logarithm of the sum of exponentials over the last axis, kept as an axis of 1."""
    top = logits.max(axis=-1, keepdims=True)
    return top + np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _itself(array: np.ndarray) -> np.ndarray:
    return array
