"""Probes against plain loops, scikit-learn and cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from swav_eval import knn as knn_module
from swav_eval import probes
from swav_eval.knn import knn, top_share
from swav_eval.linear import STRENGTHS, _held_out, linear
from swav_spec.errors import InvalidInput
from swav_spec.tolerance import bound, error


def clusters(count, *, classes=4, features=6, spread=1.5, seed=0):
    """Labels [count], and features around a centre for each class, the same centres for every seed."""
    centres = np.random.default_rng(99).normal(size=(classes, features))
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(count) % classes)
    return centres[labels] + spread * random.normal(size=(count, features)), labels


TRAIN, TRAIN_LABELS = clusters(80, seed=1)
TEST, TEST_LABELS = clusters(40, seed=2)


def plain_votes(train, labels, queries, classes, k, temperature):
    """The definition, one image and one neighbour at a time."""
    scores = np.zeros((len(queries), classes))
    for row, query in enumerate(queries):
        cosines = [query @ one / np.linalg.norm(query) / np.linalg.norm(one) for one in train]
        for near in sorted(range(len(train)), key=lambda position: -cosines[position])[:k]:
            scores[row, labels[near]] += np.exp(cosines[near] / temperature)
    return scores


@pytest.mark.parametrize("k", [1, 7, 80])
@pytest.mark.parametrize("temperature", [0.07, 0.1, 1.0])
def test_knn_is_its_definition(k, temperature):
    got = knn(TRAIN, TRAIN_LABELS, TEST, classes=4, k=k, temperature=temperature)
    expected = plain_votes(TRAIN, TRAIN_LABELS, TEST, 4, k, temperature)
    shares = [scores / scores.sum(axis=1, keepdims=True) for scores in (got.scores, expected)]
    assert abs(shares[0] - shares[1]).max() < 1e-5
    assert np.array_equal(got.classes, expected.argmax(axis=1))


def test_knn_agrees_with_scikit_learn():
    other = KNeighborsClassifier(9, metric="cosine", algorithm="brute", weights=lambda far: np.exp((1 - far) / 0.2))
    other.fit(TRAIN, TRAIN_LABELS)
    got = knn(TRAIN, TRAIN_LABELS, TEST, classes=4, k=9, temperature=0.2)
    shares = got.scores / got.scores.sum(axis=1, keepdims=True)
    assert abs(shares - other.predict_proba(TEST)).max() < 1e-5


def test_knn_in_chunks_is_the_same(monkeypatch):
    whole = knn(TRAIN, TRAIN_LABELS, TEST, classes=4, k=5, temperature=0.1)
    monkeypatch.setattr(knn_module, "_CHUNK_ENTRIES", 3 * len(TRAIN))
    chunked = knn(TRAIN, TRAIN_LABELS, TEST, classes=4, k=5, temperature=0.1)
    # Products of other shapes add up in another order; a cosine's rounding is magnified by 1 / T in its vote.
    assert error(chunked.scores, whole.scores) <= bound("float32", depth=TRAIN.shape[1], gain=1 / 0.1)
    assert np.array_equal(chunked.classes, whole.classes)


@pytest.mark.parametrize(("scale", "kind"), [(1e-30, "f4"), (1e30, "f4"), (1e-300, "f8"), (1e300, "f8")])
def test_knn_ignores_the_length_of_features(scale, kind):
    expected = knn(TRAIN, TRAIN_LABELS, TEST, classes=4, k=5)
    got = knn((TRAIN * scale).astype(kind), TRAIN_LABELS, (TEST * scale).astype(kind), classes=4, k=5)
    assert np.allclose(got.scores, expected.scores, rtol=1e-4)


@pytest.mark.parametrize("temperature", [1e-4, 1e-2, 1e4])
def test_knn_is_finite_for_every_temperature(temperature):
    scores = knn(TRAIN, TRAIN_LABELS, TEST, classes=4, k=80, temperature=temperature).scores
    assert np.isfinite(scores).all()
    assert (scores.max(axis=1) >= 1).all()


def test_zero_features_are_allowed():
    assert np.isfinite(knn(np.zeros((4, 3)), np.arange(4), np.zeros((2, 3)), classes=4, k=2).scores).all()


@given(
    scores=hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 7)), elements=st.integers(0, 3)),
    data=st.data(),
)
def test_top_share_counts_the_labels_among_the_first(scores, data):
    rows, classes = scores.shape
    labels = np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows)))
    top = data.draw(st.integers(1, classes))
    first = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    expected = np.mean([label in row for label, row in zip(labels, first, strict=True)])
    assert top_share(scores, labels, top) == pytest.approx(expected)
    assert top_share(scores, labels, 1) == pytest.approx(np.mean(scores.argmax(axis=1) == labels))


def test_linear_is_logistic_regression_on_standardised_features():
    train, test = TRAIN * [1, 10, 100, 1, 1, 1e-3] + 5, TEST * [1, 10, 100, 1, 1, 1e-3] + 5
    got = linear(train, TRAIN_LABELS, test, classes=4, strengths=(0.5,))
    scaler = StandardScaler().fit(train)
    other = LogisticRegression(C=0.5, tol=1e-8, max_iter=10_000).fit(scaler.transform(train), TRAIN_LABELS)
    expected = other.decision_function(scaler.transform(test))
    assert got.converged
    assert got.strength == 0.5
    assert abs(got.scores - expected).max() < 0.02 * abs(expected).max()
    assert np.mean(got.classes == expected.argmax(axis=1)) > 0.97


def test_linear_learns_what_is_linear():
    train, labels = clusters(400, classes=7, features=20, spread=0.3, seed=1)
    test, test_labels = clusters(200, classes=7, features=20, spread=0.3, seed=2)
    assert np.mean(linear(train, labels, test, classes=7).classes == test_labels) == 1


def test_the_strength_is_chosen_and_matters():
    """Two useful features among two hundred of noise want a strong penalty; many useful ones a weak one."""
    random = np.random.default_rng(0)
    labels = np.arange(160) % 2
    noise = np.concatenate([labels[:, None] + random.normal(size=(160, 2)), random.normal(size=(160, 200))], axis=1)
    clear = np.where(labels[:, None], 1, -1) * np.exp(-np.arange(40) / 3) + 0.01 * random.normal(size=(160, 40))
    assert linear(noise, labels, noise, classes=2).strength <= 1e-2
    assert linear(clear, labels, clear, classes=2).strength == STRENGTHS[0]  # of equals the first wins


@pytest.mark.parametrize("seed", range(6))
def test_the_strength_is_the_best_on_the_held_out_fifth(seed):
    train, labels = clusters(120, features=12, spread=4, seed=seed)
    held_out = _held_out(labels, seed)
    rows = StandardScaler().fit_transform(train)
    accuracies = [
        LogisticRegression(C=strength, max_iter=1000)
        .fit(rows[~held_out], labels[~held_out])
        .score(rows[held_out], labels[held_out])
        for strength in STRENGTHS
    ]
    assert linear(train, labels, train, classes=4, seed=seed).strength == STRENGTHS[int(np.argmax(accuracies))]


def test_a_fifth_of_every_class_is_held_out():
    labels = np.repeat([0, 1, 2, 3], [1, 2, 10, 50])
    masks = {_held_out(labels, seed).tobytes() for seed in range(5)}
    assert len(masks) == 5
    held_out = np.frombuffer(min(masks), dtype=bool)
    assert [int(held_out[labels == label].sum()) for label in range(4)] == [0, 1, 2, 10]


def test_the_strength_does_not_depend_on_test_images():
    chosen = {linear(TRAIN, TRAIN_LABELS, TEST * factor, classes=4).strength for factor in (1, -5, 0)}
    assert len(chosen) == 1


def test_linear_says_when_it_did_not_converge_and_warns_of_nothing():
    # Warnings are errors in this suite.
    assert not linear(TRAIN, TRAIN_LABELS, TEST, classes=4, max_iterations=1).converged


@pytest.mark.parametrize("classes", [2, 5])
def test_linear_with_two_classes_and_with_classes_unseen(classes):
    train, labels = clusters(60, classes=2, spread=0.5, seed=1)
    test, test_labels = clusters(30, classes=2, spread=0.5, seed=2)
    got = linear(train, labels, test, classes=classes)
    assert got.scores.shape == (30, classes)
    assert np.isneginf(got.scores[:, 2:]).all()
    assert np.mean(got.classes == test_labels) > 0.9


def test_constant_features_do_no_harm():
    train, test = (np.concatenate([part, np.full((len(part), 1), 7.0)], axis=1) for part in (TRAIN, TEST))
    assert np.isfinite(linear(train, TRAIN_LABELS, test, classes=4).scores).all()


def test_evaluate_gives_what_its_parts_give():
    got = probes.evaluate(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, k=9)
    neighbours = knn(TRAIN, TRAIN_LABELS, TEST, classes=4, k=9)
    regression = linear(TRAIN, TRAIN_LABELS, TEST, classes=4)
    assert got["knn_top1"] == np.mean(neighbours.classes == TEST_LABELS)
    assert got["knn_top1"] == probes.knn_top1(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, k=9)
    assert got["linear_top1"] == np.mean(regression.classes == TEST_LABELS)
    assert got["linear_c"] == regression.strength
    assert got["knn_top5"] is got["linear_top5"] is None
    assert (got["train_samples"], got["test_samples"], got["knn_k"]) == (80, 40, 9)
    assert got["chance"] == 0.25
    assert set(got) == set(probes.Figures.__annotations__)


def test_evaluate_with_more_classes_gives_top5_and_lowers_k():
    train, labels = clusters(70, classes=7, seed=1)
    test, test_labels = clusters(35, classes=7, seed=2)
    got = probes.evaluate(train, labels, test, test_labels)
    assert got["knn_k"] == 70
    assert got["knn_top1"] < got["knn_top5"] <= 1
    assert got["linear_top1"] < got["linear_top5"] <= 1


def test_chance_is_the_largest_class():
    labels = np.array([0, 1] * 15 + [1] * 10)
    assert probes.evaluate(TRAIN, TRAIN_LABELS, TEST, labels)["chance"] == 25 / 40


def test_features_without_information_stay_at_chance():
    random = np.random.default_rng(5)
    train, test = random.normal(size=(2000, 16)), random.normal(size=(2000, 16))
    labels = np.arange(2000) % 10
    got = probes.evaluate(train, labels, test, random.permutation(labels), k=20)
    # Standard deviation of a share of .1 of 2000: .0067.
    assert abs(got["knn_top1"] - 0.1) < 0.03
    assert abs(got["linear_top1"] - 0.1) < 0.03


def test_raw_pixels_are_centred():
    images = np.array([0, 255], dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), dtype=np.uint8)
    features = probes.raw_pixels(images)
    assert features.dtype == np.float32
    assert features.tolist() == [[-0.5] * 12, [0.5] * 12]


@settings(deadline=None, max_examples=25)
@given(count=st.integers(4, 12), features=st.integers(1, 4), seed=st.integers(0, 1000))
def test_small_sets_give_figures_in_range(count, features, seed):
    random = np.random.default_rng(seed)
    train, test = random.normal(size=(count, features)), random.normal(size=(3, features))
    got = probes.evaluate(train, np.arange(count) % 2, test, random.integers(0, 2, 3), classes=2)
    assert 0 <= got["knn_top1"] <= 1
    assert 0 <= got["linear_top1"] <= 1
    assert -8 <= got["uniformity"] <= 1e-9
    assert 0 <= got["rankme"] <= features + 1e-3


NOT_FINITE = TRAIN.copy()
NOT_FINITE[3, 2] = np.nan


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train_features": NOT_FINITE}, "train features = 'not finite'"),
        ({"test_features": NOT_FINITE[:40]}, "test features = 'not finite'"),
        ({"train_features": TRAIN[:, :3]}, "test features' shape"),
        ({"train_features": TRAIN[0]}, "train features' shape"),
        ({"train_features": TRAIN.astype(str)}, "train features' type"),
        ({"train_labels": TRAIN_LABELS[:-1]}, "train labels' shape"),
        ({"train_labels": TRAIN_LABELS / 2}, "train labels' shape, type"),
        ({"test_labels": TEST_LABELS[:-1]}, "test labels' shape"),
        ({"classes": 3}, "labels' range"),
        ({"train_labels": TRAIN_LABELS - 1}, "train labels' range"),
        ({"train_labels": np.zeros(80, int), "classes": 4}, "classes among the train labels = 1"),
        ({"k": 0}, "k = 0"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"train_labels": np.zeros(0, int)}, "labels = 'none'"),
    ],
)
def test_bad_input_is_named(changes, says):
    arguments = {
        "train_features": TRAIN,
        "train_labels": TRAIN_LABELS,
        "test_features": TEST,
        "test_labels": TEST_LABELS,
    }
    with pytest.raises(InvalidInput) as caught:
        probes.evaluate(**(arguments | changes))
    assert says in str(caught.value)


def test_knn_wants_no_more_neighbours_than_there_are():
    with pytest.raises(InvalidInput, match=r"^k = 81: must be in 1\.\.80"):
        knn(TRAIN, TRAIN_LABELS, TEST, classes=4, k=81)


def test_a_judgement_has_the_predictions_behind_its_figures():
    found = probes.judge(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, classes=4, k=5)
    assert found.figures == probes.evaluate(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, classes=4, k=5)
    for prediction, figure in ((found.neighbours, "knn_top1"), (found.linear, "linear_top1")):
        assert found.figures[figure] == (prediction.classes == TEST_LABELS).mean()
    without = probes.judge(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, classes=4, k=5, with_linear=False)
    assert without.linear is None
    linear_figures = {name for name in found.figures if name.startswith("linear")}
    assert without.figures == found.figures | dict.fromkeys(linear_figures)
