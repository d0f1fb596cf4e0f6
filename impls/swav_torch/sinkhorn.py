"""Scores to codes: the balanced soft assignment of samples to prototypes (SwAV, section 3.1, equation 3).

N rows of scores (samples; queue rows first), K columns (prototypes). An iteration reads the scores once: with the
samples normalised on the fly, softmax(L + f), the columns' totals c are all that the next prototype shift needs,
f - log c. T + 1 reads in all, where alternating logarithms need 2 T + 1; the result is the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from swav_spec.sinkhorn import check_sinkhorn

AllReduce = Callable[[torch.Tensor], torch.Tensor]


def sinkhorn(
    scores: torch.Tensor,
    *,
    epsilon: float,
    iterations: int = 3,
    keep: int | None = None,
    all_max: AllReduce | None = None,
    all_sum: AllReduce | None = None,
) -> torch.Tensor:
    """Codes of the last `keep` rows after a fixed number of Sinkhorn-Knopp iterations.

    Args:
        scores: [N, K]; half precisions are widened to float32. Values are not checked: that would stop the device.
        epsilon: entropy weight of the transport problem, > 0.
        iterations: at least 1.
        keep: how many of the last rows to return; all by default.
        all_max, all_sum: reductions of a [K] tensor over shards of the rows; a shard may be empty.

    Returns:
        [keep, K], non-negative, each row summing to 1; float32, or float64 where given that.

    Raises:
        InvalidInput: a shape or a limit above is broken.
    """
    sharded = all_max is not None or all_sum is not None
    check_sinkhorn(tuple(scores.shape), epsilon, iterations, keep, sharded=sharded)
    keep = len(scores) if keep is None else keep
    return assign(scores, epsilon, iterations, keep, all_max or _itself, all_sum or _itself)


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def assign(
    scores: torch.Tensor,
    epsilon: float,
    iterations: int,
    keep: int,
    all_max: AllReduce = _itself,
    all_sum: AllReduce = _itself,
) -> torch.Tensor:
    """`sinkhorn` without checks, of several problems at once: [..., N, K] to [..., keep, K]."""
    logits = widened(scores) / epsilon
    prototype_shift = -_logsumexp_of_columns(logits, all_max, all_sum)
    for _ in range(iterations - 1):
        totals = all_sum(torch.softmax(logits + prototype_shift.unsqueeze(-2), dim=-1).sum(dim=-2))
        # A total is at least 1/K, but for the rounding of logits so large that a whole column can vanish.
        prototype_shift = prototype_shift - totals.clamp_min(torch.finfo(logits.dtype).tiny).log()
    kept = logits.narrow(-2, logits.shape[-2] - keep, keep)
    return torch.softmax(kept + prototype_shift.unsqueeze(-2), dim=-1)


def _logsumexp_of_columns(logits: torch.Tensor, all_max: AllReduce, all_sum: AllReduce) -> torch.Tensor:
    """[..., N, K] to [..., K]; the global maxima keep every exponential in range, whatever the rows of a shard."""
    if logits.shape[-2] == 0:
        top = all_max(logits.new_full((logits.shape[-1],), -torch.inf))
    else:
        top = all_max(logits.amax(dim=-2))
    return top + all_sum((logits - top.unsqueeze(-2)).exp().sum(dim=-2)).log()


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """float64 and float32 as they are, anything else as float32."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
