"""The protocols as data, their learning rates, the labelled images, and the gradients of their oracle."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swav_spec import supervised
from swav_spec.config import CropGroup, Network
from swav_spec.errors import InvalidInput
from swav_spec.multicrop import central_plan, crop_plan
from swav_spec.network import initial_weights, tensor_shapes
from swav_spec.supervised import BIAS, WEIGHT, Supervised, labelled_subset, lr_of, rates_of_step
from swav_spec.testing.assertions import assert_close, assert_finite_difference, assert_same
from swav_spec.testing.supervised_reference import SupervisedReference, loss_and_gradients

NETWORK = Network(block="basic", depths=(1,), widths=(4,), strides=(2,), stem="cifar", hidden=6, embedding=4)
SMALL = {"epochs": 4, "head_lr": 0.4, "batch": 5, "size": 8}


def test_the_linear_protocol_is_the_published_one():
    linear = supervised.recipe("linear")
    assert (linear.epochs, linear.batch, linear.momentum, linear.weight_decay) == (100, 256, 0.9, 1e-6)
    assert linear.frozen
    assert linear.crops == (CropGroup(224, 1, (0.08, 1.0)),)
    assert linear.fraction == 1
    assert lr_of(linear, 0) == (None, 0.3)
    expected = [0.5 * 0.3 * (1 + np.cos(np.pi * epoch / 100)) for epoch in range(100)]
    assert_close([lr_of(linear, epoch).head for epoch in range(100)], expected, precision="float64", what="cosine")


@pytest.mark.parametrize(
    ("name", "trunk", "head", "fraction"), [("semi-1", 0.02, 5, 0.01), ("semi-10", 0.01, 0.2, 0.1)]
)
def test_the_semi_supervised_protocols_are_the_published_ones(name, trunk, head, fraction):
    config = supervised.recipe(name)
    assert (config.epochs, config.batch, config.momentum, config.weight_decay) == (20, 256, 0.9, 0)
    assert not config.frozen
    assert config.fraction == fraction
    factors = [1.0] * 12 + [0.2] * 4 + [0.04] * 4
    found = np.array([lr_of(config, epoch) for epoch in range(20)])
    assert_close(found, np.outer(factors, [trunk, head]), precision="float64", what="learning rates by epoch")


def test_views_are_flipped_crops_and_no_more():
    config = Supervised(**SMALL)
    plan = crop_plan(config, seed=0, epoch=0, samples=np.arange(400), heights=20, widths=30)
    (group,) = plan.groups
    assert group.box.shape == (1, 400, 4)
    assert 0.4 < group.flip.mean() < 0.6
    assert not group.grayscale.any()
    assert (group.jitter_factor == [1, 1, 1, 0]).all()
    assert group.blur.tolist() == [[[1]] * 400]
    assert (group.box[..., 2] * group.box[..., 3] < 0.2 * 600).any()
    # Of the same shapes as the plan of evaluation, so that compiled programs can be shared.
    central = supervised.evaluation_plan(config, np.full(400, 20), np.full(400, 30))
    assert [array.shape for array in central.groups[0][1:]] == [array.shape for array in group[1:]]


def test_a_config_and_a_protocol_of_the_same_crops_get_the_same_plan():
    from swav_spec.config import Config, Schedule

    config = Supervised(**SMALL)
    twice = Config(
        batch=5,
        crops=(CropGroup(8, 2, (0.08, 1.0)),),
        network=NETWORK,
        schedule=Schedule(1, 0.1),
        augmentation=config.augmentation,
    )
    arguments = {"seed": 3, "epoch": 2, "samples": np.array([4, 9, 1]), "heights": 31, "widths": 17}
    one, two = (crop_plan(made, **arguments).groups[0] for made in (config, twice))
    for found, expected in zip(one[1:], two[1:], strict=True):
        assert_same(found[0], expected[0], what="the first crop's choices")


def test_images_of_the_views_size_are_judged_whole():
    config = Supervised(**SMALL | {"size": 8, "share": 0.5})
    (group,) = supervised.evaluation_plan(config, np.array([8, 8, 16]), np.array([8, 12, 16])).groups
    assert group.box[0].tolist() == [[0, 0, 8, 8], [2, 4, 4, 4], [4, 4, 8, 8]]
    assert not group.flip.any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "epochs = 0"),
        ({"head_lr": -1.0}, "head_lr = -1.0"),
        ({"trunk_lr": float("inf")}, "trunk_lr = inf"),
        ({"kind": "linear"}, "kind = 'linear'"),
        ({"milestones": (3,)}, r"milestones = \(3,\): must be empty for a cosine"),
        ({"kind": "steps", "milestones": (3, 2)}, r"milestones = \(3, 2\)"),
        ({"kind": "steps", "milestones": (0, 2)}, r"milestones = \(0, 2\)"),
        ({"gamma": 0.0}, "gamma"),
        ({"momentum": 1.0}, "momentum = 1.0"),
        ({"weight_decay": -1e-6}, "weight_decay"),
        ({"batch": 1}, "batch = 1"),
        ({"size": 0}, "crop size = 0"),
        ({"scale": (0.5, 0.1)}, "crop scale"),
        ({"share": 0.0}, "share = 0.0"),
        ({"fraction": 0.0}, "fraction = 0.0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch = 0"),
    ],
)
def test_fields_are_checked(changes, words):
    with pytest.raises(InvalidInput, match=f"^{words}"):
        Supervised(**SMALL | changes)


def test_unknown_protocols_epochs_and_steps_are_refused():
    with pytest.raises(InvalidInput, match=r"^protocol = 'semi-2': must be one of linear, semi-1, semi-10$"):
        supervised.recipe("semi-2")
    config = Supervised(**SMALL, steps_per_epoch=3)
    assert [rates_of_step(config, step) for step in (0, 2, 3, 11)] == [lr_of(config, e) for e in (0, 0, 1, 3)]
    with pytest.raises(InvalidInput, match=r"^step = 12: must be in 0\.\.11"):
        rates_of_step(config, 12)
    with pytest.raises(InvalidInput, match=r"^epoch = 4"):
        lr_of(config, 4)


def test_a_protocol_survives_json():
    for config in supervised.RECIPES.values():
        assert supervised.from_dict(json.loads(json.dumps(supervised.to_dict(config)))) == config
    with pytest.raises(InvalidInput, match="protocol fields"):
        supervised.from_dict(supervised.to_dict(Supervised(**SMALL)) | {"epsilon": 0.05})


def test_milestones_move_with_the_epochs():
    semi = supervised.recipe("semi-10")
    assert supervised.with_epochs(semi, 5).milestones == (3, 4)
    assert supervised.with_epochs(semi, 40).milestones == (24, 32)
    assert supervised.with_epochs(semi, 1).milestones == (1, 1)
    assert supervised.with_epochs(supervised.recipe("linear"), 3).milestones == ()


def test_batches_fit_the_labelled_images():
    semi = supervised.recipe("semi-1")
    assert dataclasses.replace(semi, batch=20, steps_per_epoch=1) == supervised.with_data(semi, 20)
    assert dataclasses.replace(semi, steps_per_epoch=3) == supervised.with_data(semi, 1023)
    with pytest.raises(InvalidInput, match="labelled training images = 1"):
        supervised.with_data(semi, 1)


sizes = st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any)
fractions = st.floats(0.01, 0.99)


@given(counts=sizes, fraction=fractions, seed=st.integers(0, 2**64 - 1), shuffle=st.randoms(use_true_random=False))
def test_labelled_images_are_equally_many_of_each_class(counts, fraction, seed, shuffle):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    shuffle.shuffle(labels)
    labels = np.array(labels)
    rows = labelled_subset(labels, fraction, seed)
    assert (np.diff(rows) > 0).all()
    present = sum(count > 0 for count in counts)
    each = max(1, round(fraction * len(labels) / present))
    assert np.bincount(labels[rows], minlength=len(counts)).tolist() == [min(count, each) for count in counts]


@given(seed=st.integers(0, 2**64 - 1), less=fractions, more=fractions)
def test_more_labels_are_those_and_others(seed, less, more):
    labels = np.arange(120) % 3
    less, more = sorted((less, more))
    few, many = labelled_subset(labels, less, seed), labelled_subset(labels, more, seed)
    assert set(few) <= set(many)
    assert_same(labelled_subset(labels, less, seed), few, what="the same seed")


def test_labelled_images_depend_on_the_seed_and_spread_over_the_set():
    labels = np.arange(3000) % 10
    few, other = labelled_subset(labels, 0.1, 0), labelled_subset(labels, 0.1, 1)
    assert few.tolist() != other.tolist()
    # A tenth of each third, within what chance allows many times over.
    assert all(60 < count < 140 for count in np.histogram(few, bins=3, range=(0, 3000))[0])
    assert labelled_subset(labels, 1, 0).tolist() == list(range(3000))
    # Equally many, too, where classes are not of one size.
    uneven = np.repeat([0, 1], [900, 100])
    assert np.bincount(uneven[labelled_subset(uneven, 0.1, 0)]).tolist() == [50, 50]


@pytest.mark.parametrize(
    ("labels", "fraction", "seed", "words"),
    [
        ([], 0.5, 0, "labels"),
        ([0.5], 0.5, 0, "labels"),
        ([0, 1], 1.5, 0, "fraction = 1.5"),
        ([0, 1], 0.5, -1, "seed = -1"),
    ],
)
def test_no_subset_of_nonsense(labels, fraction, seed, words):
    with pytest.raises(InvalidInput, match=f"^{words}"):
        labelled_subset(np.array(labels), fraction, seed)


def test_the_linear_layer_is_drawn_and_the_rest_is_taken():
    network = dataclasses.replace(NETWORK, widths=(400,))
    weights = initial_weights(network, 0)
    tensors = supervised.initial_tensors(network, weights, 50, seed=1)
    assert list(tensors) == list(supervised.classifier_shapes(network, 50))
    assert not any(name.startswith(("projection_head", "prototypes")) for name in tensors)
    assert tensors[WEIGHT].shape == (50, 400)
    # 20,000 draws: their deviation is known to a few thousandths of itself.
    assert 0.0098 < tensors[WEIGHT].std() < 0.0102
    assert abs(tensors[WEIGHT].mean()) < 4 * 0.01 / np.sqrt(20_000)
    assert not tensors[BIAS].any()
    for name in tensors.keys() - {WEIGHT, BIAS}:
        assert tensors[name] is weights[name]
    backbone = {name: value for name, value in weights.items() if name in supervised.backbone_shapes(network)}
    assert backbone.keys() < tensor_shapes(network).keys()
    taken = supervised.initial_tensors(network, backbone | {BIAS: np.arange(50.0)}, 50, seed=1)
    assert_same(taken[BIAS], np.arange(50.0), what="a given bias")
    assert_same(taken[WEIGHT], tensors[WEIGHT], what="weights without projection head and prototypes")


@pytest.mark.parametrize("frozen", [True, False])
def test_the_oracles_gradients_are_finite_differences(frozen):
    config = Supervised(**SMALL, trunk_lr=None if frozen else 0.1)
    rng = np.random.default_rng(0)
    weights = initial_weights(NETWORK, 1) | {WEIGHT: rng.normal(0, 0.7, (3, 4)), BIAS: rng.normal(0, 0.5, 3)}
    oracle = SupervisedReference()
    state = oracle.init_classifier(config, NETWORK, weights, 3, 0)
    views, labels = rng.normal(0, 1, (5, 8, 8, 3)), np.array([0, 2, 1, 1, 2])
    _, _, gradients, buffers = loss_and_gradients(state, views, labels)
    trained = {WEIGHT, BIAS} | (
        set() if frozen else {n for n in state.tensors if "running" not in n and "num" not in n}
    )
    assert gradients.keys() == trained
    assert bool(buffers) is not frozen
    largest = max(float(np.linalg.norm(gradient)) for gradient in gradients.values())
    step = 1e-6
    for name, gradient in gradients.items():
        direction = rng.normal(0, 1, gradient.shape)
        direction /= np.linalg.norm(direction)
        ends = []
        for sign in (1, -1):
            moved = state.tensors | {name: state.tensors[name] + sign * step * direction}
            ends.append(loss_and_gradients(dataclasses.replace(state, tensors=moved), views, labels)[0])
        difference = float(ends[0] - ends[1]) / (2 * step)
        assert_finite_difference(float((gradient * direction).sum()), difference, scale=largest, what=name)


def test_the_oracle_learns():
    """Dark and light images are told apart within a few steps, and the backbone of a frozen one is as it was."""
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 2
    images = (rng.integers(0, 60, (20, 8, 8, 3)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    plan = central_plan(8, np.full(20, 8), np.full(20, 8), share=1)
    for trunk_lr in (None, 0.02):
        config = Supervised(epochs=20, head_lr=0.5, trunk_lr=trunk_lr, batch=20, size=8)
        oracle = SupervisedReference()
        state = oracle.init_classifier(config, NETWORK, initial_weights(NETWORK, 0), 2, 0)
        before = oracle.classifier_arrays(state)
        for _ in range(20):
            state, metrics = oracle.classifier_step(state, images, labels, plan)
        assert metrics["correct"] == 20
        assert metrics["loss"] < np.log(2) / 4
        same = {n: np.array_equal(a, before[n]) for n, a in oracle.classifier_arrays(state).items()}
        assert [name for name, is_same in same.items() if not is_same] == (
            [WEIGHT, BIAS] if trunk_lr is None else list(same)
        )
        assert oracle.classify(state, images, plan).argmax(axis=1).tolist() == labels.tolist() or trunk_lr
