"""Effective rank and uniformity where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swav_eval import label_free
from swav_eval.label_free import rankme, uniformity
from swav_spec.errors import InvalidInput


@given(rank=st.integers(1, 8), seed=st.integers(0, 100), scale=st.sampled_from([1e-300, 1.0, 1e308]))
def test_rankme_of_equal_directions_is_their_number(rank, seed, scale):
    left, right = (
        np.linalg.qr(np.random.default_rng(seed + side).normal(size=(rows, rank)))[0]
        for side, rows in enumerate((20, 8))
    )
    assert rankme(scale * left @ right.T) == pytest.approx(rank, abs=1e-3)


def test_rankme_is_its_definition():
    features = np.diag([4.0, 3.0, 2.0, 1.0])
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    assert rankme(features) == pytest.approx(np.prod(shares**-shares), rel=1e-5)


def test_collapse_shows():
    same = np.ones((50, 1)) * np.arange(1, 9)
    assert rankme(same) == pytest.approx(1, abs=1e-3)
    assert rankme(np.zeros((50, 8))) == 0
    assert uniformity(same) == pytest.approx(0, abs=1e-12)


def test_uniformity_of_two_opposite_points():
    assert uniformity(np.array([[3.0, 0], [-0.1, 0]])) == pytest.approx(-8)
    assert uniformity(np.array([[3.0, 0], [0, 1]]), t=5) == pytest.approx(-10)


@pytest.mark.parametrize("chunk", [3, 1024])
def test_uniformity_is_its_definition(monkeypatch, chunk):
    monkeypatch.setattr(label_free, "_CHUNK_ROWS", chunk)
    features = np.random.default_rng(0).normal(size=(17, 5))
    unit = [row / np.linalg.norm(row) for row in features]
    pairs = [np.exp(-2 * ((unit[i] - unit[j]) ** 2).sum()) for i in range(17) for j in range(i)]
    assert uniformity(features) == pytest.approx(np.log(np.mean(pairs)))


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_uniformity_ignores_the_length_of_features(scale):
    features = np.random.default_rng(0).normal(size=(17, 5))
    assert uniformity(features * scale) == pytest.approx(uniformity(features))


def test_uniformity_of_many_rows_takes_evenly_spaced_ones():
    features = np.random.default_rng(0).normal(size=(100, 5))
    assert uniformity(features, rows=4) == uniformity(features[[0, 33, 66, 99]])


def test_uniformity_stays_finite_where_all_pairs_vanish():
    assert np.isfinite(uniformity(np.array([[1.0], [-1.0]]), t=1e6))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: rankme(np.array([[np.inf, 1.0]])), "not finite"),
        (lambda: rankme(np.zeros(3)), "shape"),
        (lambda: uniformity(np.ones((1, 3))), "rows"),
        (lambda: uniformity(np.ones((3, 3)), t=0), "t = 0"),
        (lambda: uniformity(np.ones((3, 3)), rows=1), "rows = 1"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InvalidInput, match=says):
        call()
