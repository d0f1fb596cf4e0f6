"""All figures of one set of frozen features, under the names that records use."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import numpy as np

from swav_eval.checks import check_features, check_labelled
from swav_eval.knn import Prediction, knn, top_share
from swav_eval.label_free import rankme, uniformity
from swav_eval.linear import LinearPrediction, linear
from swav_spec.errors import require


class Figures(TypedDict):
    """Accuracies are shares of the test images, in 0..1; top-5 is None where there are fewer than 6 classes.

    Attributes:
        knn_top1, knn_top5: of weighted nearest neighbours.
        knn_k, knn_temperature: their settings.
        linear_top1, linear_top5: of logistic regression; None where it was left out, as are the next two.
        linear_c: the strength it chose.
        linear_converged: whether its last fit met its tolerance.
        chance: share of the largest class among the test images, what a constant answer gets.
        rankme, uniformity: of the test features (see label_free).
        train_samples, test_samples: images.
    """

    knn_top1: float
    knn_top5: float | None
    knn_k: int
    knn_temperature: float
    linear_top1: float | None
    linear_top5: float | None
    linear_c: float | None
    linear_converged: bool | None
    chance: float
    rankme: float
    uniformity: float
    train_samples: int
    test_samples: int


class Judgement(NamedTuple):
    """The figures, and the predictions that they come from (for a confusion matrix); linear is None if left out."""

    figures: Figures
    neighbours: Prediction
    linear: LinearPrediction | None


def evaluate(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    classes: int | None = None,
    k: int = 200,
    temperature: float = 0.1,
    seed: int = 0,
) -> Figures:
    """Everything that is said of features; arguments and errors as in `judge`."""
    return judge(
        train_features,
        train_labels,
        test_features,
        test_labels,
        classes=classes,
        k=k,
        temperature=temperature,
        seed=seed,
    ).figures


def judge(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    classes: int | None = None,
    k: int = 200,
    temperature: float = 0.1,
    seed: int = 0,
    with_linear: bool = True,
) -> Judgement:
    """Everything that is said of features, and what the probes say of each test image.

    Args:
        train_features, test_features: [N, F], [M, F], finite real numbers.
        train_labels, test_labels: [N], [M] integers in 0..classes-1.
        classes: C; the largest label + 1 by default.
        k: neighbours; at most N are taken, and `knn_k` says how many.
        temperature: of the neighbours' votes.
        seed: of the split on which the linear probe's strength is chosen.
        with_linear: logistic regression on a million images takes days; without it its figures are None.

    Raises:
        InvalidInput: shapes do not match, a value is not finite, or a number is out of range.
    """
    classes = _classes(train_labels, test_labels, classes)
    test_labels = check_labelled(check_features(test_features, "test features"), test_labels, classes, "test")
    require(k >= 1, "k", k, "at least 1")
    k = min(k, len(train_features))
    neighbours = knn(train_features, train_labels, test_features, classes=classes, k=k, temperature=temperature)
    regression = None
    if with_linear:
        regression = linear(train_features, train_labels, test_features, classes=classes, seed=seed)

    def top5(scores: np.ndarray) -> float | None:
        return top_share(scores, test_labels, 5) if classes >= 6 else None

    figures = Figures(
        knn_top1=top_share(neighbours.scores, test_labels, 1),
        knn_top5=top5(neighbours.scores),
        knn_k=k,
        knn_temperature=temperature,
        linear_top1=top_share(regression.scores, test_labels, 1) if regression else None,
        linear_top5=top5(regression.scores) if regression else None,
        linear_c=regression.strength if regression else None,
        linear_converged=regression.converged if regression else None,
        chance=float(np.bincount(test_labels).max() / len(test_labels)),
        rankme=rankme(test_features),
        uniformity=uniformity(test_features),
        train_samples=len(train_features),
        test_samples=len(test_features),
    )
    return Judgement(figures, neighbours, regression)


def knn_top1(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    classes: int | None = None,
    k: int = 200,
    temperature: float = 0.1,
) -> float:
    """The nearest neighbours' accuracy alone, quick enough for curves over training. Arguments as in `evaluate`."""
    classes = _classes(train_labels, test_labels, classes)
    test_labels = check_labelled(check_features(test_features, "test features"), test_labels, classes, "test")
    k = min(k, len(train_features))
    prediction = knn(train_features, train_labels, test_features, classes=classes, k=k, temperature=temperature)
    return top_share(prediction.scores, test_labels, 1)


def raw_pixels(images: np.ndarray) -> np.ndarray:
    """Images [N, H, W, 3] uint8 as features [N, H*W*3] float32: the baseline that no training is needed for.

    Pixels are centred on mid-grey. Around black, all images point nearly the same way and cosines say little.
    """
    return images.reshape(len(images), -1) / np.float32(255) - np.float32(0.5)


def _classes(train_labels: np.ndarray, test_labels: np.ndarray, classes: int | None) -> int:
    if classes is not None:
        return classes
    require(min(np.size(train_labels), np.size(test_labels)) >= 1, "labels", "none", "at least one image in each part")
    return int(max(np.max(train_labels), np.max(test_labels))) + 1
