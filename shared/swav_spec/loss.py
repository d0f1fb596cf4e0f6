"""Swapped prediction: each view predicts the codes of the others (SwAV, section 3, equations 1 and 2)."""

from __future__ import annotations

import numpy as np

from swav_spec.errors import require
from swav_spec.sinkhorn import logsumexp, softmax


def swapped_loss(
    scores: np.ndarray, codes: np.ndarray, *, temperature: float, assigned: tuple[int, ...]
) -> tuple[float, np.ndarray]:
    """Mean cross-entropy between the codes of the assigned views and the predictions of all other views.

    With x = S / temperature, A assigned views i, V views v:

        loss = 1 / (B A (V-1)) * sum over i, v != i, samples b of  -<q_i[b], log softmax(x_v[b])>

    and, with w_v the sum of the q_i over i != v and n_v their number, the gradient is
    (n_v softmax(x_v) - w_v) / (temperature B A (V-1)). The codes carry no gradient.

    Args:
        scores: [V, B, K], V >= 2.
        codes: [A, B, K], rows summing to 1, in the order of `assigned`.
        temperature: > 0.
        assigned: the view that each code belongs to.

    Returns:
        The loss, and its gradient [V, B, K] with respect to the scores; float64.

    Raises:
        InvalidInput: a shape, the temperature or an assigned view is out of its limits.
    """
    scores = np.asarray(scores, dtype=np.float64)
    codes = np.asarray(codes, dtype=np.float64)
    check_swapped_loss(scores.shape, codes.shape, temperature, assigned)
    views, batch, _ = scores.shape
    scale = 1 / (batch * len(assigned) * (views - 1))

    logits = scores / temperature
    targets, counts = targets_of_views(codes, assigned, views)
    counts = counts[:, None, None]
    loss = scale * (np.sum(counts * logsumexp(logits)) - np.sum(targets * logits))
    gradient = scale / temperature * (counts * softmax(logits) - targets)
    return float(loss), gradient


def targets_of_views(codes: np.ndarray, assigned: tuple[int, ...], views: int) -> tuple[np.ndarray, np.ndarray]:
    """For each view, the sum of the codes it predicts (all but its own) [V, B, K], and how many they are [V]."""
    total = codes.sum(axis=0)
    targets = np.stack([total] * views)
    counts = np.full(views, float(len(assigned)))
    for code, view in zip(codes, assigned, strict=True):
        targets[view] -= code
        counts[view] -= 1
    return targets, counts


def check_swapped_loss(
    scores_shape: tuple[int, ...], codes_shape: tuple[int, ...], temperature: float, assigned: tuple[int, ...]
) -> None:
    """Raises InvalidInput if the arguments of the loss break a limit; for every column to call."""
    require(len(scores_shape) == 3 and scores_shape[0] >= 2, "scores' shape", scores_shape, "[V, B, K] with V >= 2")
    wanted = (len(assigned), *scores_shape[1:])
    require(tuple(codes_shape) == wanted, "codes' shape", codes_shape, f"{wanted}, one block for each assigned view")
    require(0 < temperature < np.inf, "temperature", temperature, "greater than 0")
    allowed = f"distinct views in 0..{scores_shape[0] - 1}, at least one"
    distinct = len(assigned) >= 1 and len(set(assigned)) == len(assigned)
    require(distinct and all(0 <= view < scores_shape[0] for view in assigned), "assigned", assigned, allowed)
