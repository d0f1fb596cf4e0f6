"""Updates: LARC over SGD with momentum (You et al. 2017, as the published recipes use it), plain SGD, and Adam.

All treat every tensor alike, batch-normalisation parameters and biases included. They are functions of dicts of
tensors, so that one `tf.function` can hold the whole step; no norm is read by the host.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from swav_spec.optimizer import LARC_EPSILON
from swav_tensorflow.sinkhorn import widen

Tensors = Mapping[str, tf.Tensor]
Gradients = Mapping[str, tf.Tensor | None]
Updated = tuple[dict[str, tf.Tensor], dict[str, tf.Tensor | None]]

ADAM_DECAYS, ADAM_EPSILON = (0.9, 0.999), 1e-8


def normalize_rows(array: tf.Tensor) -> tf.Tensor:
    """Each row over max(its Euclidean norm, 1e-12), along the last axis: a zero row stays zero.

    The limit is put under the root, where the gradient of a zero row stays finite. Computes in float32 or wider.
    """
    array = widen(array)
    squares = tf.reduce_sum(tf.square(array), axis=-1, keepdims=True)
    return array / tf.sqrt(tf.maximum(squares, 1e-24))


def larc_sgd(
    params: Tensors,
    grads: Gradients,
    momentum: Gradients,
    *,
    lr: float | tf.Tensor,
    weight_decay: float,
    trust: float,
    decay: float = 0.9,
) -> Updated:
    """One step. Per tensor p with gradient g:

        g' = (g + weight_decay p) * trust |p| / (|g| + weight_decay |p| + 1e-8)   unless |p| or |g| is 0:  g' = g
        buffer = decay buffer + g'        (the first time: g')
        p = p - lr buffer

    Args:
        params: name -> tensor.
        grads: name -> gradient of the same shape, or None: that tensor and its buffer stay as they are.
        momentum: name -> buffer, or None where there is none yet.
        lr: learning rate, a number or a [] tensor; outside the buffer, so that a change acts at once.
        weight_decay, trust, decay: see above.

    Returns:
        New parameters and new buffers.
    """
    names = [name for name in params if grads[name] is not None]
    if not names:
        return dict(params), dict(momentum)
    # All norms in two vectors: the ratios then cost a dozen kernels in all, not a dozen for each tensor.
    p_norms = tf.stack([tf.norm(params[name]) for name in names])
    g_norms = tf.stack([tf.norm(grads[name]) for name in names])
    ratios = trust * p_norms / (g_norms + weight_decay * p_norms + LARC_EPSILON)
    counted = (p_norms > 0) & (g_norms > 0)
    of_gradient = dict(zip(names, tf.unstack(tf.where(counted, ratios, 1.0)), strict=True))
    of_param = dict(zip(names, tf.unstack(tf.where(counted, weight_decay * ratios, 0.0)), strict=True))
    scaled = {name: of_gradient[name] * grads[name] + of_param[name] * params[name] for name in names}
    return _descend(params, scaled, momentum, lr, decay)


def sgd(
    params: Tensors,
    grads: Gradients,
    momentum: Gradients,
    *,
    lr: float | tf.Tensor,
    weight_decay: float,
    decay: float = 0.9,
) -> Updated:
    """One step as in `larc_sgd`, with g' = g + weight_decay p."""
    decayed = {name: None if g is None else g + weight_decay * params[name] for name, g in grads.items()}
    return _descend(params, decayed, momentum, lr, decay)


def _descend(params: Tensors, updates: Gradients, momentum: Gradients, lr, decay: float) -> Updated:
    new_params, new_momentum = {}, {}
    for name, param in params.items():
        update, buffer = updates.get(name), momentum.get(name)
        if update is None:
            new_params[name], new_momentum[name] = param, buffer
            continue
        new_momentum[name] = update if buffer is None else decay * buffer + update
        new_params[name] = param - lr * new_momentum[name]
    return new_params, new_momentum


def adam(
    params: Tensors,
    grads: Tensors,
    mean: Tensors,
    square: Tensors,
    *,
    count: Tensors,
    lr: tf.Tensor,
    weight_decay: float,
) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """One step of Adam (Kingma and Ba 2015, algorithm 1) on g' = g + weight_decay p.

        m = .9 m + .1 g',  v = .999 v + .001 g'^2,  p = p - lr (m / (1 - .9^t)) / (sqrt(v / (1 - .999^t)) + 1e-8)

    Written here because keras.optimizers.Adam adds its epsilon before the correction of v (the paper's "epsilon
    hat"): its first step from a gradient of 1e-8 is 16 times shorter than that of other frameworks.

    Args:
        params, grads, mean, square: name -> p, g, m, v.
        count: name -> t [] in the tensors' dtype, how many updates the tensor will have had after this one.
        lr: [].
        weight_decay: see above.

    Returns:
        New parameters, m and v.
    """
    first, second = ADAM_DECAYS
    new_params, new_mean, new_square = {}, {}, {}
    for name, p in params.items():
        t = count[name]
        g = grads[name] + weight_decay * p
        m = first * mean[name] + (1 - first) * g
        v = second * square[name] + (1 - second) * tf.square(g)
        root = tf.sqrt(v / (1 - second**t)) + ADAM_EPSILON
        new_params[name] = p - lr * (m / (1 - first**t)) / root
        new_mean[name], new_square[name] = m, v
    return new_params, new_mean, new_square
