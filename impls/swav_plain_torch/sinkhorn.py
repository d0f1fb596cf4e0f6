"""Scores to codes as the paper writes them: exponentials, then prototypes and samples normalised in turns (eq. 3)."""

from __future__ import annotations

import torch


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, *, epsilon: float, iterations: int = 3, keep: int | None = None) -> torch.Tensor:
    """Codes of the last `keep` rows.

    Args:
        scores: [N, K] cosines. Larger scores overflow in float32, as exp(S / epsilon) is taken as it is.
        epsilon, iterations, keep: as in swav_spec.sinkhorn.

    Returns:
        [keep, K], each row summing to 1.
    """
    codes = torch.exp(scores / epsilon)
    codes = codes / codes.sum()
    samples, prototypes = codes.shape
    for _ in range(iterations):
        codes = codes / codes.sum(dim=0, keepdim=True)
        codes = codes / prototypes
        codes = codes / codes.sum(dim=1, keepdim=True)
        codes = codes / samples
    codes = codes * samples
    return codes[-keep:] if keep is not None else codes
