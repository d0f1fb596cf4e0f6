"""The queue: embeddings of earlier steps that take part in the assignment (SwAV, section 4.1).

One tensor per run, [A, R, D]: for each assigned view R rows of embeddings, newest in front. How many rows have been
pushed is counted on the host; it is never guessed from the rows' values.
"""

from __future__ import annotations

import tensorflow as tf

from swav_spec.errors import require
from swav_spec.queue import is_full


def queue_scores(queue: tf.Tensor, prototypes: tf.Tensor) -> tf.Tensor:
    """Scores [A, R, K] of the queued embeddings [A, R, D] with this step's normalised prototypes [K, D]."""
    return tf.einsum("ard,kd->ark", queue, prototypes)


def queue_read(queue: tf.Tensor, count: int, prototypes: tf.Tensor) -> tf.Tensor | None:
    """`queue_scores`, or None until the queue has received as many rows as it holds.

    Args:
        queue: [A, R, D].
        count: rows pushed so far per view.
        prototypes: [K, D], this step's normalised prototypes.
    """
    return queue_scores(queue, prototypes) if is_full(count, queue.shape[1]) else None


def queue_push(queue: tf.Tensor, count: int, embeddings: tf.Tensor) -> tuple[tf.Tensor, int]:
    """The queue after a step: its embeddings in front, the oldest rows dropped.

    Args:
        queue: [A, R, D].
        count: rows pushed so far per view.
        embeddings: [A, B, D], B <= R, of the assigned views.

    Returns:
        The new queue [A, R, D] and the new count.

    Raises:
        InvalidInput: there are more new rows than the queue holds.
    """
    rows, new = queue.shape[1], embeddings.shape[1]
    require(new <= rows, "rows pushed", new, f"at most the queue's {rows}")
    return tf.concat([embeddings, queue[:, : rows - new]], axis=1), count + new
