"""The queue: embeddings of earlier steps, newest in front, [A, R, D] (SwAV, section 4.1)."""

from __future__ import annotations

import torch


def queue_read(queue: torch.Tensor, count: int, prototypes: torch.Tensor) -> torch.Tensor | None:
    """Scores [A, R, K] of the queued embeddings with prototypes [K, D]; None until `count` >= R rows were pushed."""
    if count < queue.shape[1]:
        return None
    return torch.stack([torch.mm(rows, prototypes.t()) for rows in queue])


def queue_push(queue: torch.Tensor, count: int, embeddings: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The queue with embeddings [A, B, D] in front and the oldest rows dropped, and the new count."""
    new = embeddings.shape[1]
    pushed = queue.clone()
    for slot, rows in enumerate(embeddings):
        pushed[slot, new:] = queue[slot, : queue.shape[1] - new]
        pushed[slot, :new] = rows
    return pushed, count + new
