"""What is true of the swapped prediction loss and its gradient. x = S / temperature; q are codes."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np

from swav_spec import loss as specification
from swav_spec import tolerance
from swav_spec.sinkhorn import logsumexp
from swav_spec.testing.assertions import assert_within
from swav_spec.testing.properties import holds
from swav_spec.testing.strategies import Prediction, code_rows, exact, generator, predictions, seeds
from swav_spec.testing.subject import Subject


def rounding(subject: Subject, prediction: Prediction) -> float:
    """Largest change of the loss that rounding explains: it is a difference of numbers as large as the logits."""
    depth = 4 + math.log2(prediction.scores.size)
    return tolerance.bound(subject.maths, depth=depth) * prediction.logit


def gradient_rounding(subject: Subject, prediction: Prediction) -> float:
    """Largest change of an entry of the gradient that rounding explains: a softmax, minus codes, times the slope."""
    return rounding(subject, prediction) * prediction.slope * len(prediction.assigned)


def loss_of(subject: Subject, prediction: Prediction) -> float:
    """The subject's loss."""
    return gradient_of(subject, prediction)[0]


def gradient_of(subject: Subject, prediction: Prediction) -> tuple[float, np.ndarray]:
    """The subject's loss and gradient."""
    loss, gradient = subject.swapped_loss(prediction.scores, prediction.codes, **prediction.settings)
    return loss, gradient.astype(np.float64)


def same_loss(subject: Subject, prediction: Prediction, actual: float, expected: float, what: str) -> None:
    """Losses agree as far as rounding lets them."""
    allowed = rounding(subject, prediction)
    assert abs(actual - expected) <= allowed, f"{what}: {actual!r} against {expected!r}, allowed {allowed:.3g}"


def same_gradient(
    subject: Subject, prediction: Prediction, actual: np.ndarray, expected: np.ndarray, what: str
) -> None:
    """Gradients agree as far as rounding lets them."""
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape} against {expected.shape}"
    # Relative to the slope, so that a gradient near 0 is judged by what it is made of.
    allowed = gradient_rounding(subject, prediction)
    scale = max(np.abs(expected).max(), prediction.slope)
    corner = np.full((1, *expected.shape[1:]), scale)
    assert_within(np.concatenate([actual, corner]), np.concatenate([expected, corner]), allowed / scale, what=what)


@holds("swapped_loss", prediction=predictions())
def equals_the_specification(subject: Subject, prediction: Prediction) -> None:
    """Loss and gradient are those of the specification."""
    loss, gradient = gradient_of(subject, prediction)
    expected, expected_gradient = specification.swapped_loss(prediction.scores, prediction.codes, **prediction.settings)
    same_loss(subject, prediction, loss, expected, "loss")
    same_gradient(subject, prediction, gradient, expected_gradient, "gradient")


@holds("swapped_loss", prediction=predictions())
def equals_the_double_sum(subject: Subject, prediction: Prediction) -> None:
    """The loss is the mean over assigned c, views v != c and samples of -<q_c, log softmax(S_v / temperature)>."""
    logits = prediction.scores / prediction.temperature
    log_softmax = logits - logsumexp(logits)
    views = range(len(logits))
    terms = [
        -(code * log_softmax[view]).sum(axis=-1).mean()
        for code, own in zip(prediction.codes, prediction.assigned, strict=True)
        for view in views
        if view != own
    ]
    same_loss(subject, prediction, loss_of(subject, prediction), float(np.mean(terms)), "loss")


@holds("swapped_loss", prediction=predictions())
def at_least_the_entropy_of_the_codes(subject: Subject, prediction: Prediction) -> None:
    """The loss is at least the mean entropy of the codes, and so at least 0."""
    entropy = _entropy(prediction.codes)
    loss = loss_of(subject, prediction)
    assert loss >= entropy - rounding(subject, prediction), f"loss {loss:.6g} is below the codes' entropy {entropy:.6g}"


@holds("swapped_loss", prediction=predictions(views=2, assigned=(0, 1), positive=True))
def equal_to_the_entropy_where_predictions_are_the_codes(subject: Subject, prediction: Prediction) -> None:
    """With two views, S_v = temperature log q_other gives the mean entropy of the codes, and gradient 0."""
    perfect = prediction._replace(scores=prediction.temperature * np.log(prediction.codes[::-1]))
    loss, gradient = gradient_of(subject, perfect)
    same_loss(subject, perfect, loss, _entropy(prediction.codes), "loss against the entropy of the codes")
    allowed = gradient_rounding(subject, perfect)
    assert np.abs(gradient).max() <= allowed, f"gradient {np.abs(gradient).max():.3g} must be 0, allowed {allowed:.3g}"


@holds("swapped_loss", prediction=predictions())
def log_k_for_constant_scores(subject: Subject, prediction: Prediction) -> None:
    """Scores that are the same for all prototypes give ln K: the value of a collapsed run."""
    flat = prediction._replace(scores=np.broadcast_to(prediction.scores[..., :1], prediction.scores.shape))
    same_loss(subject, flat, loss_of(subject, flat), math.log(prediction.scores.shape[-1]), "loss of constant scores")


@holds("swapped_loss", prediction=predictions())
def at_most_log_k_and_the_range(subject: Subject, prediction: Prediction) -> None:
    """The loss is at most ln K + (largest - smallest score of a row) / temperature."""
    spread = np.ptp(prediction.scores, axis=-1).max() / prediction.temperature
    most = math.log(prediction.scores.shape[-1]) + spread
    loss = loss_of(subject, prediction)
    assert loss <= most + rounding(subject, prediction), f"loss {loss:.6g} is above {most:.6g}"


@holds("swapped_loss", prediction=predictions(), seed=seeds)
def views_can_be_permuted(subject: Subject, prediction: Prediction, seed: int) -> None:
    """Views in another order, assigned ones renamed with them: the same loss, the gradient in that order."""
    order = generator(seed).permutation(len(prediction.scores))
    renamed = tuple(int(np.flatnonzero(order == view)[0]) for view in prediction.assigned)
    loss, gradient = gradient_of(subject, prediction)
    moved, moved_gradient = gradient_of(subject, prediction._replace(scores=prediction.scores[order], assigned=renamed))
    same_loss(subject, prediction, moved, loss, "loss of permuted views")
    same_gradient(subject, prediction, moved_gradient, gradient[order], "gradient of permuted views")


@holds("swapped_loss", prediction=predictions(), seed=seeds)
def samples_and_prototypes_can_be_permuted(subject: Subject, prediction: Prediction, seed: int) -> None:
    """Samples and prototypes in another order: the same loss, the gradient in that order."""
    random = generator(seed)
    _, batch, prototypes = prediction.scores.shape
    at = np.ix_(random.permutation(batch), random.permutation(prototypes))
    loss, gradient = gradient_of(subject, prediction)
    moved, moved_gradient = gradient_of(
        subject,
        prediction._replace(scores=prediction.scores[:, *at], codes=prediction.codes[:, *at]),
    )
    same_loss(subject, prediction, moved, loss, "loss of permuted samples and prototypes")
    same_gradient(subject, prediction, moved_gradient, gradient[:, *at], "gradient of permuted samples and prototypes")


@holds("swapped_loss", prediction=predictions(), seed=seeds)
def a_shift_of_a_row_changes_nothing(subject: Subject, prediction: Prediction, seed: int) -> None:
    """Adding a number to all scores of a sample in a view leaves loss and gradient."""
    shift = generator(seed).integers(-16, 17, (*prediction.scores.shape[:2], 1)) / 16
    shifted = prediction._replace(scores=prediction.scores + shift)
    # Rounding is that of the larger scores.
    wide = prediction._replace(scores=np.abs(prediction.scores) + np.abs(shift))
    (loss, gradient), (moved, moved_gradient) = (gradient_of(subject, one) for one in (prediction, shifted))
    same_loss(subject, wide, moved, loss, "loss after shifts of rows")
    same_gradient(subject, wide, moved_gradient, gradient, "gradient after shifts of rows")


@holds("swapped_loss", prediction=predictions())
def a_batch_twice_halves_the_gradient(subject: Subject, prediction: Prediction) -> None:
    """Every sample given twice: the same loss, half the gradient."""
    loss, gradient = gradient_of(subject, prediction)
    twice = prediction._replace(
        scores=np.concatenate([prediction.scores] * 2, axis=1), codes=np.concatenate([prediction.codes] * 2, axis=1)
    )
    doubled, doubled_gradient = gradient_of(subject, twice)
    same_loss(subject, prediction, doubled, loss, "loss of a duplicated batch")
    expected = np.concatenate([gradient / 2] * 2, axis=1)
    same_gradient(subject, prediction, doubled_gradient, expected, "gradient of a duplicated batch")


@holds("swapped_loss", prediction=predictions(), factor=st.sampled_from((2.0, 0.5)))
def only_scores_over_temperature_count(subject: Subject, prediction: Prediction, factor: float) -> None:
    """Scores and temperature times c: the same loss, the gradient over c."""
    loss, gradient = gradient_of(subject, prediction)
    scaled, scaled_gradient = gradient_of(
        subject,
        prediction._replace(scores=prediction.scores * factor, temperature=prediction.temperature * factor),
    )
    same_loss(subject, prediction, scaled, loss, "loss of scaled scores and temperature")
    same_gradient(subject, prediction, scaled_gradient * factor, gradient, "gradient of scaled scores and temperature")


@holds("swapped_loss", prediction=predictions(), seed=seeds)
def convex_in_the_scores(subject: Subject, prediction: Prediction, seed: int) -> None:
    """The loss midway between two sets of scores is at most the mean of their losses."""
    other = exact(generator(seed).uniform(-1, 1, prediction.scores.shape))
    ends = [loss_of(subject, prediction._replace(scores=scores)) for scores in (prediction.scores, other)]
    middle = loss_of(subject, prediction._replace(scores=(prediction.scores + other) / 2))
    widest = prediction._replace(scores=np.ones_like(prediction.scores))
    assert middle <= np.mean(ends) + 2 * rounding(subject, widest), (
        f"midway {middle!r}, mean of the ends {np.mean(ends)!r}"
    )


@holds("swapped_loss", prediction=predictions(), seed=seeds)
def linear_in_the_codes(subject: Subject, prediction: Prediction, seed: int) -> None:
    """The mean of two sets of codes has the mean of their losses."""
    other = code_rows(prediction.codes.shape, seed)
    ends = [loss_of(subject, prediction._replace(codes=codes)) for codes in (prediction.codes, other)]
    middle = loss_of(subject, prediction._replace(codes=(prediction.codes + other) / 2))
    same_loss(subject, prediction, middle, float(np.mean(ends)), "loss of the mean of codes")


@holds("swapped_loss", prediction=predictions())
def gradient_rows_sum_to_zero(subject: Subject, prediction: Prediction) -> None:
    """The gradient of a row's scores sums to 0: a common shift of them changes nothing."""
    _, gradient = gradient_of(subject, prediction)
    sums = np.abs(gradient.sum(axis=-1)).max()
    allowed = gradient_rounding(subject, prediction) * gradient.shape[-1]
    assert sums <= allowed, f"a row of the gradient sums to {sums:.3g}, allowed {allowed:.3g}"


@holds("swapped_loss", prediction=predictions(), seed=seeds, precisions=("float64",))
def gradient_is_that_of_the_loss(subject: Subject, prediction: Prediction, seed: int) -> None:
    """Along a random direction d, loss(S + h d) - loss(S - h d) is 2 h <gradient, d>, the codes held."""
    # Small enough for the third derivative, large enough for the rounding of the loss.
    step = 2.0**-13 * prediction.temperature
    direction = generator(seed).uniform(-1, 1, prediction.scores.shape)
    _, gradient = gradient_of(subject, prediction)
    ahead, behind = (
        loss_of(subject, prediction._replace(scores=prediction.scores + sign * step * direction)) for sign in (1, -1)
    )
    expected = 2 * step * float((gradient * direction).sum())
    same_loss(subject, prediction, ahead - behind, expected, "change of the loss along a direction")


@holds("swapped_loss", prediction=predictions(), view=st.integers(0, 5))
def own_view_is_not_predicted(subject: Subject, prediction: Prediction, view: int) -> None:
    """With one assigned view, its own scores count for nothing: their gradient is 0."""
    view %= len(prediction.scores)
    alone = prediction._replace(codes=prediction.codes[:1], assigned=(view,))
    loss, gradient = gradient_of(subject, alone)
    assert (gradient[view] == 0).all(), (
        f"gradient of the assigned view's own scores: {np.abs(gradient[view]).max():.3g}"
    )
    scores = prediction.scores.copy()
    scores[view] = 0.0
    same_loss(subject, prediction, loss_of(subject, alone._replace(scores=scores)), loss, "loss without the own scores")


@holds("swapped_loss", prediction=predictions())
def a_gradient_step_descends(subject: Subject, prediction: Prediction) -> None:
    """A step of 1/Lip down the gradient g lowers the loss by at least |g|^2 / (2 Lip), where
    Lip = max n_v / (2 temperature^2 B A (V-1)).
    """
    _, counts = specification.targets_of_views(prediction.codes, prediction.assigned, len(prediction.scores))
    lipschitz = counts.max() * prediction.slope / (2 * prediction.temperature)
    loss, gradient = gradient_of(subject, prediction)
    after = prediction._replace(scores=prediction.scores - gradient / lipschitz)
    least = float(np.square(gradient).sum()) / (2 * lipschitz)
    fell = loss - loss_of(subject, after)
    allowed = rounding(subject, prediction) + rounding(subject, after)
    assert fell >= least - allowed, f"the loss fell by {fell:.6g}, must fall by at least {least:.6g}"


def _entropy(codes: np.ndarray) -> float:
    logs = np.log(codes, out=np.zeros_like(codes), where=codes > 0)
    return float(-(codes * logs).sum(axis=-1).mean())
