"""The queue: embeddings of earlier steps that take part in the assignment (SwAV, section 4.1).

One array per run, [A, R, D]: for each assigned view R rows of embeddings, newest in front. How many rows have been
pushed is counted on the host; it is never guessed from the rows' values.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from swav_jax.network import Numbers, prototype_scores


def queue_read(queue: Array, prototypes: Array, numbers: Numbers) -> Array:
    """Scores [A, R, K] of the queued embeddings [A, R, D] with this step's normalised prototypes [K, D]."""
    return prototype_scores(queue, prototypes, numbers)


def queue_push(queue: Array, embeddings: Array) -> Array:
    """The queue [A, R, D] with the embeddings [A, B, D], B <= R, in front and its oldest rows dropped."""
    rows, new = queue.shape[1], embeddings.shape[1]
    return jnp.concatenate([embeddings.astype(queue.dtype), queue[:, : rows - new]], axis=1)
