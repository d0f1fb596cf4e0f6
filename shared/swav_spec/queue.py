"""The queue: embeddings of earlier steps that take part in the assignment (SwAV, section 4.1).

One array per run, [A, R, D]: for each assigned view R rows of embeddings, newest in front. How many rows
have been pushed is counted; it is never guessed from the rows' values.
"""

from __future__ import annotations

import numpy as np

from swav_spec.errors import require


def queue_rows(length: int, batch: int) -> int:
    """Rows per assigned view: `length` floored to a multiple of the batch.

    Raises:
        InvalidInput: nothing is left after flooring, though a queue was asked for.
    """
    rows = length // batch * batch
    require(length == 0 or rows > 0, "queue_length", length, f"0 (no queue) or at least the batch ({batch})")
    return rows


def is_full(count: int, rows: int) -> bool:
    """Whether a queue of `rows` rows that has received `count` rows may be used."""
    return rows > 0 and count >= rows


def queue_read(queue: np.ndarray, count: int, prototypes: np.ndarray) -> np.ndarray | None:
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
    return queue @ prototypes.T


def queue_push(queue: np.ndarray, count: int, embeddings: np.ndarray) -> tuple[np.ndarray, int]:
    """The queue after a step: its embeddings in front, the oldest rows dropped.

    Args:
        queue: [A, R, D].
        count: rows pushed so far per view.
        embeddings: [A, B, D], B <= R, of the assigned views.

    Returns:
        The new queue [A, R, D] and the new count.
    """
    rows = queue.shape[1]
    new = embeddings.shape[1]
    require(new <= rows, "rows pushed", new, f"at most the queue's {rows}")
    return np.concatenate([embeddings, queue[:, : rows - new]], axis=1), count + new
