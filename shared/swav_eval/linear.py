"""The linear probe: multinomial logistic regression on frozen, standardised features.

Its strength C is chosen on a fifth of the training images, then it is fitted again on all of them; test images
are only looked at once.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from swav_eval.checks import check_features, check_labelled
from swav_spec.errors import require

#: Inverse strengths of the L2 penalty that are tried, strongest first (scikit-learn's C).
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
#: Of L-BFGS, per fit. Accuracy has settled long before the objective has.
MAX_ITERATIONS = 300
TOLERANCE = 1e-4


class LinearPrediction(NamedTuple):
    """What the probe says of M test images.

    Attributes:
        scores: [M, C] float64 logits; -inf for a class without training images.
        classes: [M] int64, the position of the largest logit.
        strength: C that was chosen.
        converged: whether the last fit met its tolerance within the iterations allowed.
    """

    scores: np.ndarray
    classes: np.ndarray
    strength: float
    converged: bool


def linear(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    classes: int,
    seed: int = 0,
    strengths: tuple[float, ...] = STRENGTHS,
    max_iterations: int = MAX_ITERATIONS,
) -> LinearPrediction:
    """Logits of test images from a classifier fitted to training images.

    Args:
        train_features: [N, F], any real numbers.
        train_labels: [N] integers in 0..classes-1, of at least 2 classes, one of them with at least 2 images.
        test_features: [M, F].
        classes: C.
        seed: of the split on which the strength is chosen.
        strengths: values of C that are tried; of equally good ones the first wins.
        max_iterations: of L-BFGS, per fit.

    Raises:
        InvalidInput: shapes do not match, a value is not finite, or there are too few classes or images.
    """
    train = check_features(train_features, "train features")
    test = check_features(test_features, "test features", columns=train.shape[1])
    labels = check_labelled(train, train_labels, classes, "train")
    seen, counts = np.unique(labels, return_counts=True)
    require(len(seen) >= 2, "classes among the train labels", len(seen), "at least 2")
    require(counts.max() >= 2, "train images of the largest class", int(counts.max()), "at least 2")
    require(len(strengths) >= 1 and min(strengths) > 0, "strengths", strengths, "at least one, all greater than 0")
    require(max_iterations >= 1, "max_iterations", max_iterations, "at least 1")

    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    scale = 1 / np.where(deviation > 0, deviation, 1.0)
    train, test = (((part - mean) * scale).astype(part.dtype) for part in (train, test))

    strength = strengths[0]
    if len(strengths) > 1:
        held_out = _held_out(labels, seed)
        best = -1.0
        # One model for all strengths: each fit starts where the stronger penalty's ended.
        model = LogisticRegression(max_iter=max_iterations, tol=TOLERANCE, warm_start=True)
        for candidate in strengths:
            _fit(model.set_params(C=candidate), train[~held_out], labels[~held_out])
            accuracy = float((model.predict(train[held_out]) == labels[held_out]).mean())
            if accuracy > best:
                best, strength = accuracy, candidate
    model = LogisticRegression(C=strength, max_iter=max_iterations, tol=TOLERANCE)
    converged = _fit(model, train, labels)

    logits = model.decision_function(test)
    scores = np.full((len(test), classes), -np.inf)
    scores[:, seen] = np.stack([-logits, logits], axis=1) / 2 if logits.ndim == 1 else logits
    return LinearPrediction(scores, scores.argmax(axis=1), float(strength), converged)


def _held_out(labels: np.ndarray, seed: int) -> np.ndarray:
    """[N] bool: a random fifth of every class, at least one image of each class that has two."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(labels))
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        held_out[order[labels[order] == label][1::5]] = True
    return held_out


def _fit(model: LogisticRegression, features: np.ndarray, labels: np.ndarray) -> bool:
    """Fits the model; whether it converged is returned, not warned about."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(features, labels)
    return not caught
