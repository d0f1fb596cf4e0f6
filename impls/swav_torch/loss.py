"""Swapped prediction: each view predicts the codes of the others (SwAV, section 3, equations 1 and 2).

The gradient is known in closed form, so the loss costs one softmax and autograd starts at the scores.
"""

from __future__ import annotations

import torch

from swav_spec.loss import check_swapped_loss
from swav_torch.sinkhorn import widened


def swapped_loss(
    scores: torch.Tensor, codes: torch.Tensor, *, temperature: float, assigned: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy between the codes of the assigned views and the predictions of all other views.

    With x = S / temperature, w_v the sum of the codes that view v predicts (all but its own) and n_v their number:

        loss = -1 / (B A (V-1)) * sum over views v and samples of <w_v, log softmax(x_v)>
        gradient = (n_v softmax(x_v) - w_v) / (temperature B A (V-1))

    Args:
        scores: [V, B, K], V >= 2; half precisions are widened to float32.
        codes: [A, B, K], rows summing to 1, in the order of `assigned`; they carry no gradient.
        temperature: > 0.
        assigned: the view that each code belongs to.

    Returns:
        The loss [], and its gradient [V, B, K] with respect to the scores; both detached.

    Raises:
        InvalidInput: a shape, the temperature or an assigned view is out of its limits.
    """
    check_swapped_loss(tuple(scores.shape), tuple(codes.shape), temperature, assigned)
    scores, codes = widened(scores.detach()), widened(codes.detach())
    views, batch, _ = scores.shape
    scale = 1 / (batch * len(assigned) * (views - 1))

    log_predictions = torch.log_softmax(scores / temperature, dim=-1)
    targets, counts = targets_of_views(codes, assigned, views)
    loss = -scale * (targets * log_predictions).sum()
    gradient = (scale / temperature) * (counts * log_predictions.exp() - targets)
    return loss, gradient


def targets_of_views(codes: torch.Tensor, assigned: tuple[int, ...], views: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each view, the sum of the codes it predicts (all but its own) [V, B, K], and how many they are [V, 1, 1]."""
    targets = codes.sum(dim=0).repeat(views, 1, 1)
    counts = codes.new_full((views, 1, 1), len(assigned))
    for position, view in enumerate(assigned):
        targets[view] -= codes[position]
        counts[view] -= 1
    return targets, counts
