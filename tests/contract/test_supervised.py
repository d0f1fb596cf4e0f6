"""Classifiers of the frameworks against the one in NumPy, and what must hold whatever the numbers are."""

import dataclasses

import numpy as np
import pytest

from swav_spec.config import Network
from swav_spec.errors import InvalidInput
from swav_spec.multicrop import central_plan, crop_plan
from swav_spec.network import initial_weights, is_buffer
from swav_spec.supervised import BIAS, WEIGHT, Supervised, classifier_shapes
from swav_spec.testing.assertions import assert_close, assert_gradients_close, assert_same, dtype_of, is_low
from swav_spec.testing.images import random_images
from swav_spec.testing.supervised_reference import SupervisedReference
from swav_spec.tolerance import bound, error

pytestmark = pytest.mark.needs("classifier")

NETWORK = Network(block="basic", depths=(1,), widths=(6,), strides=(2,), stem="cifar", hidden=8, embedding=4)
CLASSES, SIDE, SEED = 7, 12, 5
#: Steps end in a second epoch of another learning rate; decay and momentum large enough for their faults to show.
COMMON = {"batch": 6, "size": 8, "steps_per_epoch": 2, "momentum": 0.8, "weight_decay": 0.05}
STEPS = 3
CONFIGS = {
    "frozen": Supervised(epochs=2, head_lr=0.4, **COMMON),
    "trained": Supervised(
        epochs=2, head_lr=0.4, trunk_lr=0.1, kind="steps", milestones=(1,), gamma=0.25, scale=(0.4, 1.0), **COMMON
    ),
}
#: Roundings in a row through four convolutions, their normalisations and back, some 4 each, in each of the steps.
DEPTH = 2 * 10 * 4 * STEPS
IMAGES = random_images(3, 9, SIDE, SIDE)
LABELS = np.random.default_rng(4).integers(0, CLASSES, len(IMAGES)).astype(np.int32)
BATCHES = np.array([[2, 0, 8, 4, 5, 6], [7, 1, 3, 0, 2, 4], [8, 6, 5, 4, 3, 1]])
CENTRAL = central_plan(8, np.full(9, SIDE), np.full(9, SIDE), share=0.8)


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def weights(seed=0):
    """Of a network that has been trained: running statistics, scales and shifts are not those of a start."""
    drawn = initial_weights(NETWORK, seed)
    rng = np.random.default_rng(seed)
    for name, value in drawn.items():
        if value.ndim == 1 and name.endswith(("weight", "running_var")):
            drawn[name] = rng.uniform(0.5, 1.5, value.shape)
        elif value.ndim == 1 and name.endswith(("bias", "running_mean")):
            drawn[name] = rng.normal(0, 0.3, value.shape)
        elif value.ndim == 0:
            drawn[name] = np.array(41)
    return drawn


def linear(seed=1):
    """A linear layer far from its start, so that its logits matter."""
    rng = np.random.default_rng(seed)
    return {WEIGHT: rng.normal(0, 0.8, (CLASSES, NETWORK.features)), BIAS: rng.normal(0, 0.5, CLASSES)}


def plan_of(config, step):
    samples = BATCHES[step]
    epoch = step // config.steps_per_epoch
    return crop_plan(config, seed=9, epoch=epoch, samples=samples, heights=SIDE, widths=SIDE, index=samples)


def train(implementation, config, given, *, steps=STEPS, labels=LABELS):
    """State after some steps, and the metrics of each on the host."""
    images, on_device = implementation.to_device(IMAGES), implementation.to_device(labels)
    state = implementation.init_classifier(config, NETWORK, given, CLASSES, SEED)
    history = []
    for step in range(steps):
        assert (state.step, state.config) == (step, config)
        state, metrics = implementation.classifier_step(state, images, on_device, plan_of(config, step))
        history.append({name: implementation.to_host(value) for name, value in metrics.items()})
    return state, history


def logits_of(implementation, state):
    return implementation.to_host(implementation.classify(state, implementation.to_device(IMAGES), CENTRAL))


def test_steps_and_logits_are_those_of_the_specification(implementation, precision, config):
    given = weights() | linear()
    state, history = train(implementation, config, given)
    reference = SupervisedReference()
    expected, wanted = train(reference, config, given)
    rule = {"precision": precision, "depth": DEPTH}
    for step, (found, want) in enumerate(zip(history, wanted, strict=True)):
        assert_close(found["loss"], want["loss"], what=f"loss of step {step}", **rule)
        assert found["loss"].shape == found["correct"].shape == ()
        assert int(found["correct"]) == int(want["correct"])
    arrays, tensors = implementation.classifier_arrays(state), reference.classifier_arrays(expected)
    assert list(arrays) == list(classifier_shapes(NETWORK, CLASSES))
    for name, value in tensors.items():
        if name.endswith("num_batches_tracked"):
            assert_same(arrays[name], value, what=name)
        else:
            assert arrays[name].dtype == dtype_of(precision), name
            assert_close(arrays[name], value, what=name, **rule)
    moved = {name: arrays[name] - given[name] for name in arrays if not is_buffer(name)}
    moves = {name: tensors[name] - given[name] for name in moved}
    # What a step adds to a tensor, which its size would hide.
    assert_gradients_close(
        moved, moves, precision=precision, depth=DEPTH, gain=max(1.0, _gain(tensors, moves)), what="change"
    )
    assert_close(logits_of(implementation, state), logits_of(reference, expected), what="logits", **rule)


def _gain(tensors, moves):
    """How much larger than its change a tensor is, whose rounding the change carries."""
    return max(np.abs(tensors[name]).max() / (np.abs(moves[name]).max() or np.inf) for name in moves)


def test_what_is_frozen_stays_and_what_is_trained_moves(implementation, precision, config):
    given = weights() | linear()
    before = implementation.classifier_arrays(implementation.init_classifier(config, NETWORK, given, CLASSES, SEED))
    after = implementation.classifier_arrays(train(implementation, config, given, steps=1)[0])
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed == ({WEIGHT, BIAS} if config.frozen else set(before))


def test_learning_rates_of_zero_change_the_statistics_alone(implementation, precision):
    config = dataclasses.replace(CONFIGS["trained"], trunk_lr=0.0, head_lr=0.0)
    given = weights()
    before = implementation.classifier_arrays(implementation.init_classifier(config, NETWORK, given, CLASSES, SEED))
    after = implementation.classifier_arrays(train(implementation, config, given, steps=2)[0])
    assert {name for name in before if before[name].tobytes() != after[name].tobytes()} == set(
        filter(is_buffer, before)
    )


def test_trunk_and_head_have_their_own_learning_rates(implementation, precision):
    given = weights() | linear()
    for name in ("trunk_lr", "head_lr"):
        config = dataclasses.replace(CONFIGS["trained"], **{name: 0.0})
        before = implementation.classifier_arrays(implementation.init_classifier(config, NETWORK, given, CLASSES, SEED))
        after = implementation.classifier_arrays(train(implementation, config, given, steps=1)[0])
        still = {n for n in before if not is_buffer(n) and before[n].tobytes() == after[n].tobytes()}
        head = {WEIGHT, BIAS}
        assert still == (head if name == "head_lr" else {n for n in before if not is_buffer(n)} - head)


def test_the_loss_starts_at_the_logarithm_of_the_classes(implementation, precision, config):
    zeros = {WEIGHT: np.zeros((CLASSES, NETWORK.features)), BIAS: np.zeros(CLASSES)}
    _, history = train(implementation, config, weights() | zeros, steps=1)
    assert_close(history[0]["loss"], np.log(CLASSES), precision=precision, depth=8, what="loss of equal logits")


def test_renamed_classes_are_the_same_classes(implementation, precision, config):
    given = weights() | linear()
    order = np.array([3, 6, 0, 5, 1, 2, 4])  # class c is called order[c]
    renamed = dict(given)
    for name in (WEIGHT, BIAS):
        renamed[name] = np.empty_like(given[name])
        renamed[name][order] = given[name]
    state, history = train(implementation, config, given)
    other, again = train(implementation, config, renamed, labels=order[LABELS].astype(np.int32))
    rule = {"precision": precision, "depth": DEPTH}
    for step, (found, wanted) in enumerate(zip(again, history, strict=True)):
        assert_close(found["loss"], wanted["loss"], what=f"loss of step {step}", **rule)
        assert int(found["correct"]) == int(wanted["correct"])
    assert_close(logits_of(implementation, other)[:, order], logits_of(implementation, state), what="logits", **rule)


def test_asking_changes_nothing_and_depends_on_the_image_alone(implementation, precision, config):
    state, _ = train(implementation, config, weights() | linear(), steps=1)
    before = implementation.classifier_arrays(state)
    logits = logits_of(implementation, state)
    assert logits.shape == (len(IMAGES), CLASSES)
    # The same number of images, so that no program is compiled anew: the first one again and again.
    repeated = CENTRAL._replace(index=np.zeros_like(CENTRAL.index))
    first = implementation.to_host(implementation.classify(state, implementation.to_device(IMAGES), repeated))
    # The same program on the same image: in low precision its products round alike, whatever stands beside.
    depth = 4 if is_low(precision) else DEPTH
    assert_close(first, np.repeat(logits[:1], len(IMAGES), axis=0), precision=precision, depth=depth, what="logits")
    assert error(logits, first) > bound(precision, depth=depth), "images are told apart"
    after = implementation.classifier_arrays(state)
    for name, value in before.items():
        assert_same(after[name], value, what=name)


def test_the_linear_layer_is_drawn_from_the_seed(implementation, precision):
    config = CONFIGS["frozen"]

    def drawn(seed):
        state = implementation.init_classifier(config, NETWORK, weights(), CLASSES, seed)
        return implementation.classifier_arrays(state)

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert_same(again[WEIGHT], first[WEIGHT], what="the same seed")
    assert first[WEIGHT].tobytes() != other[WEIGHT].tobytes()
    assert not first[BIAS].any()


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape", "classes"])
def test_init_refuses(implementation, precision, fault):
    given, classes = weights(), CLASSES
    if fault == "missing":
        del given["layer1.0.conv2.weight"]
    elif fault == "unexpected":
        given["layer1.0.conv2.bias"] = np.zeros(6)
    elif fault == "shape":
        given["layer1.0.conv2.weight"] = np.zeros((6, 6, 1, 1))
    else:
        classes = 1
    with pytest.raises(InvalidInput, match="classes = 1" if fault == "classes" else r"layer1\.0\.conv2"):
        implementation.init_classifier(CONFIGS["frozen"], NETWORK, given, classes, SEED)


def test_steps_refuse_other_batches_sizes_and_epochs(implementation, precision):
    config = CONFIGS["frozen"]
    images, labels = implementation.to_device(IMAGES), implementation.to_device(LABELS)
    state = implementation.init_classifier(config, NETWORK, weights(), CLASSES, SEED)
    short = crop_plan(config, seed=0, epoch=0, samples=np.arange(4), heights=SIDE, widths=SIDE)
    with pytest.raises(InvalidInput, match="plan"):
        implementation.classifier_step(state, images, labels, short)
    with pytest.raises(InvalidInput, match="plan"):
        implementation.classify(state, images, central_plan(9, np.full(9, SIDE), np.full(9, SIDE)))
    with pytest.raises(InvalidInput, match="labels"):
        implementation.classifier_step(state, images, implementation.to_device(LABELS[:-1]), plan_of(config, 0))
    over = dataclasses.replace(config, epochs=1, steps_per_epoch=1)
    state = implementation.init_classifier(over, NETWORK, weights(), CLASSES, SEED)
    state, _ = implementation.classifier_step(state, images, labels, plan_of(over, 0))
    with pytest.raises(InvalidInput, match="step = 1"):
        implementation.classifier_step(state, images, labels, plan_of(config, 1))


def test_low_precision_stays_near_float32(make_implementation):
    losses, logits = {}, {}
    for precision in ("float32", "bfloat16"):
        implementation = make_implementation(precision)
        state, history = train(implementation, CONFIGS["trained"], weights() | linear(), steps=1)
        losses[precision] = history[0]["loss"]
        arrays = implementation.classifier_arrays(state)
        assert {value.dtype for name, value in arrays.items() if not name.endswith("tracked")} == {np.dtype(np.float32)}
        fresh = implementation.init_classifier(CONFIGS["trained"], NETWORK, weights() | linear(), CLASSES, SEED)
        logits[precision] = logits_of(implementation, fresh)
        assert logits[precision].dtype == np.float32
    assert_close(logits["bfloat16"], logits["float32"], precision="bfloat16", depth=4, what="logits")
    assert_close(losses["bfloat16"], losses["float32"], precision="bfloat16", depth=4, what="loss")
    assert error(logits["bfloat16"], logits["float32"]) > bound("float32", depth=DEPTH), "not computed in bfloat16"
