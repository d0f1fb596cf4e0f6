"""The queue: embeddings of earlier steps that take part in the assignment (SwAV, section 4.1).

One tensor per run, [A, R, D]: for each assigned view R rows of embeddings, newest in front. How many rows have been
pushed is a number on the host, so that no step waits for the device to know whether the queue is full.
"""

from __future__ import annotations

import torch

from swav_spec.errors import require
from swav_spec.queue import is_full
from swav_torch.sinkhorn import widened


def queue_read(queue: torch.Tensor, count: int, prototypes: torch.Tensor) -> torch.Tensor | None:
    """Scores of the queued embeddings with this step's prototypes, or None while the queue is not full.

    Args:
        queue: [A, R, D].
        count: rows pushed so far per view.
        prototypes: [K, D], this step's normalised prototypes.

    Returns:
        [A, R, K] or None.
    """
    if not is_full(count, queue.shape[1]):
        return None
    return widened(queue) @ widened(prototypes).T


def queue_push(queue: torch.Tensor, count: int, embeddings: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The queue after a step: its embeddings in front, the oldest rows dropped.

    Args:
        queue: [A, R, D].
        count: rows pushed so far per view.
        embeddings: [A, B, D], B <= R, of the assigned views.

    Returns:
        The new queue [A, R, D] and the new count.

    Raises:
        InvalidInput: there are more embeddings than the queue has rows.
    """
    rows, new = queue.shape[1], embeddings.shape[1]
    require(new <= rows, "rows pushed", new, f"at most the queue's {rows}")
    return torch.cat([embeddings, queue[:, : rows - new]], dim=1), count + new
