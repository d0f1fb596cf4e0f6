"""Updates: LARC over SGD with momentum (You et al. 2017, as the published recipes use it), and plain SGD.

Both treat every tensor alike, batch-normalisation parameters and biases included.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Tensors = Mapping[str, np.ndarray]
LARC_EPSILON = 1e-8


def normalize_rows(array: np.ndarray) -> np.ndarray:
    """Each row over max(its Euclidean norm, 1e-12), along the last axis: a zero row stays zero."""
    array = np.asarray(array, dtype=np.float64)
    return array / np.maximum(np.linalg.norm(array, axis=-1, keepdims=True), 1e-12)


def larc_sgd(
    params: Tensors,
    grads: Mapping[str, np.ndarray | None],
    momentum: Mapping[str, np.ndarray | None],
    *,
    lr: float,
    weight_decay: float,
    trust: float,
    decay: float = 0.9,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray | None]]:
    """One step. Per tensor p with gradient g:

        g' = (g + weight_decay p) * trust |p| / (|g| + weight_decay |p| + 1e-8)   unless |p| or |g| is 0:  g' = g
        buffer = decay buffer + g'        (the first time: g')
        p = p - lr buffer

    Args:
        params: name -> tensor.
        grads: name -> gradient of the same shape, or None: that tensor and its buffer stay as they are.
        momentum: name -> buffer, or None where there is none yet.
        lr: learning rate; outside the buffer, so that a change acts at once.
        weight_decay, trust, decay: see above.

    Returns:
        New parameters and new buffers, float64.
    """

    def scaled(p: np.ndarray, g: np.ndarray) -> np.ndarray:
        p_norm, g_norm = np.linalg.norm(p), np.linalg.norm(g)
        if p_norm == 0 or g_norm == 0:
            return g
        return (g + weight_decay * p) * (trust * p_norm / (g_norm + weight_decay * p_norm + LARC_EPSILON))

    return _sgd(params, grads, momentum, scaled, lr, decay)


def sgd(
    params: Tensors,
    grads: Mapping[str, np.ndarray | None],
    momentum: Mapping[str, np.ndarray | None],
    *,
    lr: float,
    weight_decay: float,
    decay: float = 0.9,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray | None]]:
    """One step as in `larc_sgd`, with g' = g + weight_decay p."""
    return _sgd(params, grads, momentum, lambda p, g: g + weight_decay * p, lr, decay)


def _sgd(params, grads, momentum, scaled, lr, decay):
    new_params, new_momentum = {}, {}
    for name, value in params.items():
        p = np.asarray(value, dtype=np.float64)
        g, buffer = grads[name], momentum.get(name)
        if g is not None:
            update = scaled(p, np.asarray(g, dtype=np.float64))
            buffer = update if buffer is None else decay * np.asarray(buffer, dtype=np.float64) + update
            p = p - lr * buffer
        new_params[name], new_momentum[name] = p, buffer
    return new_params, new_momentum
