"""What is true of the network and of a training step through it, against the reference's own network in NumPy."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np

from swav_spec import sinkhorn, views
from swav_spec.config import Block, Network
from swav_spec.loss import swapped_loss
from swav_spec.multicrop import crop_plan
from swav_spec.network import BN_SUFFIXES, is_buffer, parameter_names, tensor_shapes
from swav_spec.testing import runs
from swav_spec.testing.assertions import assert_close, assert_same, assert_within, is_low
from swav_spec.testing.properties import holds
from swav_spec.testing.properties.multicrop import FALSE_ALARM, chance_bound, picture
from swav_spec.testing.runs import SCENARIOS
from swav_spec.testing.strategies import generator
from swav_spec.testing.subject import Subject
from swav_spec.tolerance import bound

TRAINER = ("init", "step_on_views", "loss_and_grads", "forward", "to_arrays", "from_arrays")
#: Runs are dear, so their seeds are few and they are kept.
run_seeds = st.integers(0, 15)
scenarios = st.sampled_from(tuple(SCENARIOS))
FEW = 0.07


def depth_of(subject: Subject, depth: float) -> float:
    """Roundings one after another: where products are low, one of theirs, and the gain tells what the others add."""
    return 1 if is_low(subject.precision) else depth


@holds("initial_weights", seed=st.integers(0, 2**32 - 1), block=st.sampled_from(("conv", "basic", "bottleneck")))
def initial_weights_have_their_distributions(subject: Subject, seed: int, block: Block) -> None:
    """Convolutions start normal with variance 2 / (out kernel^2), linear layers and prototypes uniform in
    +- 1/sqrt(in), biases as their weights; normalisation as the identity, with nothing seen yet.
    """
    # Widths rise, so that what comes in and what goes out cannot be mistaken for each other.
    network = Network(block, (1, 1), (8, 24), (1, 2), "cifar", hidden=80, embedding=40, prototypes=120)
    weights = subject.implementation.initial_weights(network, seed)
    assert {name: value.shape for name, value in weights.items()} == tensor_shapes(network)
    start = dict(zip(BN_SUFFIXES, (1, 0, 0, 1, 0), strict=True))
    for name, value in weights.items():
        layer, _, kind = name.rpartition(".")
        if f"{layer}.running_mean" in weights:
            assert (value == start[kind]).all(), f"{name} must be {start[kind]}"
            continue
        # But for FALSE_ALARM: a mean of squares of normal numbers (Laurent and Massart 2000), and the largest of many.
        rate = math.log(2 / FALSE_ALARM) / value.size
        if value.ndim == 4:
            outputs, _, kernel, _ = value.shape
            square = np.square(value).mean() / (2 / (outputs * kernel**2))
            assert abs(square - 1) <= 2 * math.sqrt(rate) + 2 * rate, (
                f"{name}: variance is {square:.3f} of what it must be"
            )
            inside = (np.abs(value) < math.sqrt(2 / (outputs * kernel**2))).mean()
            expected = math.erf(math.sqrt(0.5))
            assert abs(inside - expected) <= chance_bound(value.size), f"{name}: {inside:.3f} within a deviation"
        else:
            limit = 1 / math.sqrt(weights[f"{layer}.weight"].shape[1])
            largest = np.abs(value).max() / limit
            assert 1 - rate <= largest <= 1, f"{name}: reaches {largest:.3f} of its limit"
        positive = (value > 0).mean()
        assert abs(positive - 0.5) <= chance_bound(value.size), f"{name}: {positive:.3f} of it is positive"


@holds("init", "to_arrays", scenario=scenarios, seed=run_seeds, share=FEW)
def weights_go_in_and_out_unchanged(subject: Subject, scenario: str, seed: int) -> None:
    """A new state has the network's tensors under the published names, in the published layouts, bit for bit."""
    config = SCENARIOS[scenario]
    weights = runs.weights_of(subject, config, seed)
    arrays = subject.implementation.to_arrays(subject.implementation.init(config, weights))
    found = {name.removeprefix("model/"): value for name, value in arrays.items() if name.startswith("model/")}
    shapes = {name: value.shape for name, value in found.items()}
    assert shapes == tensor_shapes(config.network), f"{scenario}: tensors {sorted(shapes.items())}"
    for name, value in weights.items():
        assert_same(found[name].astype(value.dtype), value, what=f"{scenario}: {name}")
    assert (int(arrays["step"]), int(arrays["queue_count"])) == (0, 0), "step and queue_count of a new state"
    assert not [name for name in arrays if name.startswith("momentum/")], "a new state has no buffers"


@holds("init", scenario=scenarios, seed=run_seeds, share=FEW)
def other_tensors_are_refused(subject: Subject, scenario: str, seed: int) -> None:
    """A tensor missing, too many, or of another shape is an error."""
    config = SCENARIOS[scenario]
    weights = runs.weights_of(subject, config, seed)
    name = sorted(weights)[seed % len(weights)]
    for wrong in (
        {key: value for key, value in weights.items() if key != name},
        weights | {"layer9.weight": np.zeros(2, dtype=subject.dtype)},
        weights | {"prototypes.weight": weights["prototypes.weight"][1:]},
    ):
        try:
            subject.implementation.init(config, wrong)
        except ValueError:
            continue
        raise AssertionError(
            f"{scenario}: tensors {sorted(set(wrong) ^ set(weights)) or 'of another shape'} must be refused"
        )


@holds(*TRAINER, seed=run_seeds, share=FEW)
def train_mode_is_the_reference_s(subject: Subject, seed: int) -> None:
    """Features, embeddings and scores of train mode: strides in the 3x3, padding all round, BN over each run of
    equal resolution with epsilon 1e-5, the head's BN over all views.
    """
    for step in runs.runs(subject, seed):
        for name, actual, expected, gain in zip(
            ("features", "embeddings", "scores"), step.outputs, step.expected.outputs, step.gains.outputs, strict=True
        ):
            step.close(subject, actual, expected, gain, name)


@holds(*TRAINER, seed=run_seeds, share=FEW)
def eval_mode_uses_the_running_statistics(subject: Subject, seed: int) -> None:
    """Features, embeddings and scores of eval mode."""
    for step in runs.runs(subject, seed):
        state = subject.implementation.from_arrays(step.config, step.before)
        given = subject.device_views(step.views)
        outputs = subject.implementation.forward(state, given, train=False)
        for name, actual, expected, gain in zip(
            ("features", "embeddings", "scores"), outputs, step.expected.evaluated, step.gains.evaluated, strict=True
        ):
            step.close(subject, subject.to_host(actual), expected, gain, f"{name} of eval mode")


@holds(*TRAINER, seed=run_seeds, share=FEW)
def running_statistics_follow_the_batches(subject: Subject, seed: int) -> None:
    """A step moves the running mean and the unbiased running variance a tenth of the way to the batch's, once for
    each run of equal resolution in order, and those of the head once over all views; batches are counted.
    """
    for step in runs.runs(subject, seed):
        for name, expected in step.expected.after.items():
            if not (name.startswith("model/") and is_buffer(name)):
                continue
            gain = step.gains.after[name]
            if name.endswith("num_batches_tracked"):
                assert int(step.after[name]) == int(expected), (
                    f"{step.where}: {name} {step.after[name]}, not {expected}"
                )
            else:
                step.close(subject, step.after[name], expected, gain, name)


@holds(*TRAINER, seed=run_seeds, share=FEW)
def only_steps_change_a_state(subject: Subject, seed: int) -> None:
    """Forward in either mode, losses and gradients leave every array of the state as it was."""
    for scenario, config in SCENARIOS.items():
        mine = subject.implementation
        state = runs.start(subject, config, seed)
        given = subject.device_views(runs.views_of(subject, config, seed))
        state, _ = mine.step_on_views(state, given)
        before = mine.to_arrays(state)
        mine.forward(state, given, train=False)
        mine.forward(state, given, train=True)
        mine.loss_and_grads(state, given)
        after = mine.to_arrays(state)
        assert sorted(after) == sorted(before), f"{scenario}: arrays {sorted(set(after) ^ set(before))} came or went"
        for name, value in before.items():
            assert_same(after[name], value, what=f"{scenario}: {name} after looking")


@holds(*TRAINER, seed=run_seeds, share=FEW)
def loss_and_gradients_are_the_reference_s(subject: Subject, seed: int) -> None:
    """Loss and the gradient of every parameter, those of frozen prototypes too."""
    for step in runs.runs(subject, seed):
        step.close(subject, step.loss, step.expected.loss, step.gains.loss, "loss")
        names = set(parameter_names(step.config.network))
        assert set(step.grads) == names, (
            f"{step.where}: gradients of {sorted(set(step.grads) ^ names)} too many or missing"
        )
        for name, expected in step.expected.grads.items():
            # A bias before BN has gradient 0 but for rounding; it has the size and the gain of what passes its weight.
            beside = name.replace(".0.bias", ".0.weight")
            size, gain = np.abs(step.expected.grads[beside]).max(), step.gains.grads[beside]
            corner = np.full(1, size)
            step.close(
                subject,
                np.append(step.grads[name], corner),
                np.append(expected, corner),
                gain,
                f"gradient of {name}",
            )


@holds(*TRAINER, seed=run_seeds, share=FEW, precisions=("float64",))
def gradients_are_those_of_the_loss_with_the_codes_held(subject: Subject, seed: int) -> None:
    """Along a random direction of all parameters, the loss changes by the gradients' product with it, codes held."""
    mine, size = subject.implementation, 2.0**-24
    for step in runs.runs(subject, seed)[::2]:
        random = generator(seed)
        codes = codes_of(step)
        direction = {name: random.normal(size=value.shape) for name, value in step.grads.items()}
        normalised = step.before["model/prototypes.weight"]
        normalised = normalised / np.linalg.norm(normalised, axis=1, keepdims=True)
        # The step normalises the prototypes outside the gradient, so they are moved where that changes nothing:
        # across their own direction, in the first order.
        across = direction["prototypes.weight"]
        across -= normalised * (across * normalised).sum(axis=1, keepdims=True)
        losses = []
        for sign in (1, -1):
            moved = dict(step.before) | {"model/prototypes.weight": normalised + sign * size * across}
            for name, along in direction.items():
                if name != "prototypes.weight":
                    moved[f"model/{name}"] = step.before[f"model/{name}"] + sign * size * along
            state = mine.from_arrays(step.config, moved)
            scores = subject.to_host(mine.forward(state, subject.device_views(step.views), train=True)[2])
            losses.append(_loss(step, scores, codes))
        expected = 2 * size * sum(float((step.grads[name] * along).sum()) for name, along in direction.items())
        found = losses[0] - losses[1]
        assert_within(
            np.array([found, 1.0]),
            np.array([expected, 1.0]),
            bound("float64"),
            what=f"{step.where}: change of the loss",
        )


def codes_of(step: runs.Step) -> np.ndarray:
    """Codes [A, B, K] of a step by the specification, from the subject's own outputs and queue."""
    config = step.config
    scores = _by_view(step, step.outputs[2])
    prototypes = step.before["model/prototypes.weight"].astype(np.float64)
    prototypes = prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)
    full = config.queue_rows > 0 and int(step.before["queue_count"]) >= config.queue_rows
    codes = []
    for slot, view in enumerate(config.assigned):
        rows = scores[view]
        if full:
            rows = np.concatenate([step.before["queue"][slot].astype(np.float64) @ prototypes.T, rows])
        codes.append(sinkhorn.sinkhorn(rows, epsilon=config.epsilon, iterations=config.iterations, keep=config.batch))
    return np.stack(codes)


def _loss(step: runs.Step, scores: np.ndarray, codes: np.ndarray) -> float:
    config = step.config
    return swapped_loss(_by_view(step, scores), codes, temperature=config.temperature, assigned=config.assigned)[0]


def _by_view(step: runs.Step, rows: np.ndarray) -> np.ndarray:
    return rows.astype(np.float64).reshape(step.config.views, step.config.batch, -1)


@holds(*TRAINER, seed=run_seeds, share=FEW)
def metrics_say_what_the_step_did(subject: Subject, seed: int) -> None:
    """Loss, entropy of the codes and prototypes used follow from the step's own scores; all of them were finite."""
    for step in runs.runs(subject, seed):
        codes = codes_of(step)
        entropy = -(codes * np.log(np.maximum(codes, np.finfo(np.float64).tiny))).sum(axis=-1).mean()
        gains = step.gains
        step.close(subject, step.metrics["loss"], _loss(step, step.outputs[2], codes), gains.loss, "metric loss")
        step.close(subject, step.metrics["loss"], step.loss, gains.loss, "metric loss against loss_and_grads")
        step.close(subject, step.metrics["code_entropy"], entropy, gains.metrics["code_entropy"], "metric code_entropy")
        used = len(np.unique(codes.argmax(axis=-1)))
        assert int(step.metrics["prototypes_used"]) == used, (
            f"{step.where}: {step.metrics['prototypes_used']} used, not {used}"
        )
        finite = np.asarray(step.metrics["finite"])
        assert finite.tolist() == [True] * len(step.config.assigned), f"{step.where}: finite is {finite}"


@holds(*TRAINER, scenario=scenarios, seed=run_seeds, share=FEW)
def scores_that_are_not_finite_are_flagged(subject: Subject, scenario: str, seed: int) -> None:
    """A pixel that is not a number ends in a flag of the metrics, not in an error on the device."""
    config = SCENARIOS[scenario]
    pixels = runs.views_of(subject, config, seed)
    pixels[0][0, 0, 0, 0] = np.nan
    state = runs.start(subject, config, seed)
    _, metrics = subject.implementation.step_on_views(state, subject.device_views(pixels))
    finite = subject.to_host(metrics["finite"])
    assert finite.shape == (len(config.assigned),), f"{scenario}: finite has shape {finite.shape}"
    assert not finite.all(), f"{scenario}: finite is {finite} after a NaN pixel"


@holds(*TRAINER, scenario=scenarios, seed=run_seeds, share=FEW)
def samples_keep_their_rows(subject: Subject, scenario: str, seed: int) -> None:
    """In eval mode a sample's outputs stand in its row of every crop, and do not depend on the other samples."""
    config, mine = SCENARIOS[scenario], subject.implementation
    state = runs.start(subject, config, seed)
    groups = runs.views_of(subject, config, seed)
    order = generator(seed).permutation(config.batch)
    moved = [group.reshape(-1, config.batch, *group.shape[1:])[:, order].reshape(group.shape) for group in groups]
    outputs, permuted = (
        [subject.to_host(array) for array in mine.forward(state, subject.device_views(one), train=False)]
        for one in (groups, moved)
    )
    for name, actual, expected in zip(("features", "embeddings", "scores"), permuted, outputs, strict=True):
        rows = expected.reshape(config.views, config.batch, -1)[:, order].reshape(expected.shape)
        depth = depth_of(subject, len(rows[0]))
        assert_close(actual, rows, precision=subject.precision, depth=depth, gain=4, what=f"{scenario}: {name}")


@holds(*TRAINER, "embed", "assign", seed=run_seeds, share=FEW)
def whole_images_are_embedded_as_eval_mode_does(subject: Subject, seed: int) -> None:
    """Whole images, normalised, get the features and embeddings of eval mode, and the prototype that scores most."""
    reference = runs.Reference()
    for scenario, config in SCENARIOS.items():
        mine = subject.implementation
        state = runs.start(subject, config, seed)
        images = picture(seed, count=3, side=(config.crops[0].size,) * 2)
        given = subject.images(images)
        features, embeddings = (subject.to_host(array) for array in mine.embed(state, given))
        same = reference.from_arrays(config, mine.to_arrays(state))
        wanted = reference.embed(same, images)
        depth = depth_of(subject, 2 * len(tensor_shapes(config.network)))
        for name, actual, expected in zip(("features", "embeddings"), (features, embeddings), wanted, strict=True):
            assert_close(actual, expected, precision=subject.precision, depth=depth, gain=4, what=f"{scenario}: {name}")
        scores = reference.forward(same, [views.normalised(images, config)], train=False)[2]
        chosen = subject.to_host(mine.assign(state, given))
        lost = scores.max(axis=1) - scores[np.arange(len(scores)), chosen]
        allowed = bound(subject.precision, depth=depth, gain=4)
        assert (lost <= allowed).all(), f"{scenario}: assigned to {chosen}, the nearest are {scores.argmax(axis=1)}"


@holds(*TRAINER, "step", "views", scenario=st.just(next(iter(SCENARIOS))), seed=run_seeds, share=FEW)
def a_step_from_pixels_is_a_step_on_their_views(subject: Subject, scenario: str, seed: int) -> None:
    """`step` of images and a plan does what `step_on_views` does with the views of that plan."""
    config, mine = SCENARIOS[scenario], subject.implementation
    images = picture(seed, count=config.batch, side=(24, 24))
    plan = crop_plan(config, seed=seed, epoch=0, samples=np.arange(config.batch), heights=24, widths=24)
    given = subject.images(images)
    ready = mine.views(given, plan, config)
    whole, _ = mine.step(runs.start(subject, config, seed), given, plan)
    parts, _ = mine.step_on_views(runs.start(subject, config, seed), ready)
    first, second = (mine.to_arrays(state) for state in (whole, parts))
    assert sorted(first) == sorted(second), f"{scenario}: arrays {sorted(set(first) ^ set(second))}"
    depth = depth_of(subject, 2 * len(tensor_shapes(config.network)))
    for name, value in second.items():
        if name.startswith("model/") and not name.endswith("num_batches_tracked"):
            assert_close(
                first[name], value, precision=subject.precision, depth=depth, gain=4, what=f"{scenario}: {name}"
            )


@holds(*TRAINER, scenario=scenarios, seed=run_seeds, at=st.integers(1, 4), share=FEW)
def a_stopped_run_goes_on(subject: Subject, scenario: str, seed: int, at: int) -> None:
    """A state that went through `to_arrays` and `from_arrays` is bit for bit what it was, and so is its next step."""
    config, mine = SCENARIOS[scenario], subject.implementation
    step = runs.run(subject, scenario, seed)[at % config.schedule.steps]
    state = mine.from_arrays(config, step.before)
    again = mine.to_arrays(state)
    assert sorted(again) == sorted(step.before), f"{step.where}: arrays {sorted(set(again) ^ set(step.before))}"
    for name, value in step.before.items():
        assert_same(again[name], value, what=f"{step.where}: {name} after a resume")
    state, _ = mine.step_on_views(state, subject.device_views(step.views))
    for name, value in mine.to_arrays(state).items():
        assert_same(value, step.after[name], what=f"{step.where}: {name} a step after a resume")
