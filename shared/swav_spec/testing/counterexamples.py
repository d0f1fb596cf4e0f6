"""Statements about SwAV that sound true and are false, each with a counterexample, so that nobody adds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from swav_spec.testing.subject import Subject

#: How much larger than any rounding a contradiction has to be.
CLEARLY = 1e-3


@dataclass(frozen=True)
class Counterexample:
    """A false statement, and a function that asserts its contradiction on an implementation."""

    name: str
    statement: str
    show: Callable[[Subject], None]


_FOUND: list[Counterexample] = []


def _is_false(show: Callable[[Subject], None]) -> Callable[[Subject], None]:
    statement = " ".join((show.__doc__ or "").split())
    _FOUND.append(Counterexample(show.__name__.replace("_", "-"), statement, show))
    return show


@_is_false
def a_shift_of_a_sample_changes_nothing(subject: Subject) -> None:
    """FALSE at finite T: adding a number to all scores of a sample leaves the codes. It changes how much the sample
    counts in the first scaling of the prototypes, and only convergence forgets that.
    """
    scores = np.array([[1.0, 0.0], [0.0, 0.0]])
    shifted = scores + np.array([[2.0], [0.0]])
    before, after = (subject.sinkhorn(s, epsilon=1.0, iterations=1) for s in (scores, shifted))
    assert np.abs(after - before).max() > CLEARLY
    before, after = (subject.sinkhorn(s, epsilon=1.0, iterations=60) for s in (scores, shifted))
    assert np.abs(after - before).max() < CLEARLY


@_is_false
def codes_become_one_hot_as_epsilon_vanishes(subject: Subject) -> None:
    """FALSE at finite T: as epsilon goes to 0 each row of codes goes to a one-hot. Two samples of equal scores want
    the same prototype, and each gets half of each.
    """
    scores = np.array([[1.0, 0.0], [1.0, 0.0]])
    for epsilon in (0.1, 0.01, 0.001):
        codes = subject.sinkhorn(scores, epsilon=epsilon, iterations=3)
        assert np.abs(codes - 1 / 2).max() < CLEARLY


@_is_false
def entropy_of_codes_grows_with_epsilon(subject: Subject) -> None:
    """FALSE: the mean entropy of the codes rises with epsilon. Two of three samples want the same of two prototypes;
    the sharper the codes, the more one of them is torn between it and the other.
    """
    scores = np.array([[0.0, 1.0], [-0.125, -1.0], [-0.125, -0.875]])
    small, large = (_entropy(subject.sinkhorn(scores, epsilon=epsilon, iterations=1)) for epsilon in (0.02, 0.2))
    assert small > large + CLEARLY


@_is_false
def codes_of_the_transpose_are_the_transpose(subject: Subject) -> None:
    """FALSE at finite T: samples and prototypes can change places (times N/K). The last half step is the samples', so
    their sums are exact and the prototypes' are not.
    """
    scores = np.array([[1.0, 0.0], [1.0, 0.5]])
    codes = subject.sinkhorn(scores, epsilon=0.25, iterations=1)
    transposed = subject.sinkhorn(scores.T, epsilon=0.25, iterations=1).T
    assert np.abs(codes - transposed).max() > CLEARLY


@_is_false
def the_loss_is_at_most_log_k(subject: Subject) -> None:
    """FALSE: the loss never exceeds ln K. A confident prediction of the wrong prototype costs the whole margin over the
    temperature.
    """
    scores = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    codes = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    loss, _ = subject.swapped_loss(scores, codes, temperature=0.1, assigned=(0, 1))
    assert loss > np.log(2) + CLEARLY


def _entropy(codes: np.ndarray) -> float:
    codes = codes.astype(np.float64)
    return float(-(codes * np.log(np.maximum(codes, np.finfo(np.float64).tiny))).sum(axis=-1).mean())


COUNTEREXAMPLES = tuple(_FOUND)
