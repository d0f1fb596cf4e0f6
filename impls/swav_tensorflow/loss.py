"""Swapped prediction: each view predicts the codes of the others (SwAV, section 3, equations 1 and 2).

The gradient is known in closed form, so the training step hands it to the tape at the scores and records nothing
of the loss itself.
"""

from __future__ import annotations

import tensorflow as tf

from swav_spec.loss import check_swapped_loss
from swav_tensorflow.sinkhorn import widen


def swapped_loss(
    scores: tf.Tensor, codes: tf.Tensor, *, temperature: float, assigned: tuple[int, ...]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean cross-entropy between the codes of the assigned views and the predictions of all other views.

    With x = S / temperature, w_v the sum of the codes of the assigned views other than v, and n_v their number:

        loss = -s * sum over v of <w_v, log softmax(x_v)>,  s = 1 / (B A (V-1))
        gradient = (s / temperature) (n_v softmax(x_v) - w_v)

    Args:
        scores: [V, B, K], V >= 2; float64 stays, everything else becomes float32.
        codes: [A, B, K], rows summing to 1, in the order of `assigned`; they carry no gradient.
        temperature: > 0.
        assigned: the view that each code belongs to.

    Returns:
        The loss [], and its gradient [V, B, K] with respect to the scores.

    Raises:
        InvalidInput: a shape, the temperature or an assigned view is out of its limits.
    """
    check_swapped_loss(tuple(scores.shape), tuple(codes.shape), temperature, assigned)
    scores, codes = widen(scores), tf.cast(codes, widen(scores).dtype)
    views, batch, _ = scores.shape
    scale = 1 / (batch * len(assigned) * (views - 1))

    own = dict(zip(assigned, tf.unstack(codes), strict=True))
    total = tf.reduce_sum(codes, axis=0)
    targets = tf.stack([total - own[view] if view in own else total for view in range(views)])
    counts = tf.constant([[[len(own) - (view in own)]] for view in range(views)], scores.dtype)

    log_probabilities = tf.nn.log_softmax(scores / temperature)
    # Where a probability is 0 its logarithm is merely very negative, so no product here is 0 * inf.
    loss = -scale * tf.reduce_sum(targets * log_probabilities)
    gradient = (scale / temperature) * (counts * tf.exp(log_probabilities) - targets)
    return loss, gradient
