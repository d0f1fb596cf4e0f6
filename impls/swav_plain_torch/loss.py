"""Swapped prediction, pair by pair: each view predicts the codes of the others (SwAV, equations 1 and 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name


def swapped_loss(
    scores: torch.Tensor, codes: torch.Tensor, *, temperature: float, assigned: tuple[int, ...]
) -> torch.Tensor:
    """Mean cross-entropy over pairs of an assigned view's codes and another view's prediction.

    Args:
        scores: [V, B, K].
        codes: [A, B, K], in the order of `assigned`.
        temperature: > 0.
        assigned: the view that each code belongs to.

    Returns:
        [], for autograd.
    """
    loss = scores.new_zeros(())
    for code, view in zip(codes, assigned, strict=True):
        for other in range(len(scores)):
            if other != view:
                predictions = F.log_softmax(scores[other] / temperature, dim=1)
                loss = loss - torch.mean(torch.sum(code * predictions, dim=1))
    return loss / (len(assigned) * (len(scores) - 1))


def swapped_loss_and_gradient(
    scores: torch.Tensor, codes: torch.Tensor, *, temperature: float, assigned: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and, by autograd, its gradient [V, B, K] with respect to the scores."""
    scores = scores.detach().requires_grad_()
    loss = swapped_loss(scores, codes, temperature=temperature, assigned=assigned)
    return loss.detach(), torch.autograd.grad(loss, scores)[0]
