"""The training step, one part after another, against the specification's arithmetic on what the trainer shows."""

import dataclasses

import numpy as np
import pytest

from swav_spec import loss, optimizer, queue, sinkhorn
from swav_spec.config import Config, CropGroup, Network, Optimizer, Schedule
from swav_spec.errors import InvalidInput
from swav_spec.multicrop import crop_plan
from swav_spec.network import initial_weights, is_buffer, parameter_names, tensor_shapes
from swav_spec.schedule import step_settings
from swav_spec.testing.assertions import (
    assert_adam_close,
    assert_close,
    assert_finite_difference,
    assert_gradients_close,
    assert_same,
    dtype_of,
    is_low,
    maths_precision,
)
from swav_spec.testing.images import random_images
from swav_spec.tolerance import bound, error
from swav_spec.views import normalised

pytestmark = pytest.mark.needs("trainer")

NETWORK = Network(
    block="conv", depths=(1, 1), widths=(6, 8), strides=(2, 2), stem="none", hidden=12, embedding=6, prototypes=7
)
#: Queue of two batches from step 1, so first used in step 3; prototypes train from step 2; warm-up of two steps.
CONFIG = Config(
    batch=4,
    crops=(CropGroup(16, 2, (0.14, 1.0)), CropGroup(8, 2, (0.05, 0.14))),
    network=NETWORK,
    schedule=Schedule(steps=6, base_lr=0.8, final_lr=0.01, warmup_steps=2, start_warmup=0.2),
    # Enough weight decay and trust for their faults to show within a few steps.
    optimizer=Optimizer(weight_decay=1e-2, trust=0.02),
    queue_length=11,
    queue_start=1,
    freeze_steps=2,
)
FIRST_USE = 3
#: Roundings in a row through two convolutions, three normalisations, three products and back: some 4 each, sums of
#: up to 500 terms included.
DEPTH = 2 * 8 * 4


def outputs(precision):
    """Tolerance of what the network gives. Where products are low, of one of their roundings: what is compared are
    programs that round the same products, or float32 arithmetic on what they gave."""
    return {"precision": precision, "depth": 1 if is_low(precision) else DEPTH}


def losses(precision):
    """Tolerance of what has gone through 1 / epsilon."""
    return outputs(precision) | {"gain": 1 if is_low(precision) else 1 / CONFIG.epsilon}


def gradients(precision):
    """Tolerance of gradients, and of what they update."""
    return outputs(precision) | {"gain": 4 if is_low(precision) else 1 / CONFIG.epsilon}


def views_of(implementation, precision, step, config=CONFIG):
    rng = np.random.default_rng([17, step])
    return [
        implementation.to_device(
            rng.normal(size=(count * config.batch, size, size, 3)).astype(np.float32).astype(dtype_of(precision))
        )
        for size, count in config.resolutions
    ]


def start(implementation, config=CONFIG, seed=3):
    return implementation.init(config, initial_weights(config.network, seed))


def advance(implementation, precision, state, steps):
    metrics = None
    for _ in range(steps):
        state, metrics = implementation.step_on_views(state, views_of(implementation, precision, state.step))
    return state, metrics


def assert_same_arrays(actual, expected, what):
    assert sorted(actual) == sorted(expected), what
    for name, value in expected.items():
        assert_same(actual[name], value, what=f"{what}, {name}")


def codes_of(config, scores, queued):
    """[A, B, K] codes by the specification from scores [V, B, K] and the queue's [A, R, K], and all rows given."""
    rows = [
        scores[view] if queued is None else np.concatenate([queued[slot], scores[view]])
        for slot, view in enumerate(config.assigned)
    ]
    return np.stack(
        [
            sinkhorn.sinkhorn(given, epsilon=config.epsilon, iterations=config.iterations, keep=config.batch)
            for given in rows
        ]
    )


def take_apart(arrays):
    """Model, parameters and momentum buffers of `to_arrays`, in float64."""
    model = {name.removeprefix("model/"): value for name, value in arrays.items() if name.startswith("model/")}
    params = {name: value.astype(np.float64) for name, value in model.items() if not is_buffer(name)}
    momentum = {name: arrays.get(f"momentum/{name}") for name in params}
    return model, params, momentum


def test_every_step_is_the_specified_one(implementation, precision):
    config = CONFIG
    state = start(implementation)
    for step in range(config.schedule.steps):
        what = f"step {step}"
        views = views_of(implementation, precision, step)
        assert (state.step, state.config) == (step, config)
        settings = step_settings(config, step, state.queue_count)
        assert settings.use_queue == (step >= FIRST_USE)

        before = implementation.to_arrays(state)
        model, params, momentum = take_apart(before)
        params["prototypes.weight"] = optimizer.normalize_rows(params["prototypes.weight"])
        _, embeddings, scores = (
            implementation.to_host(part) for part in implementation.forward(state, views, train=True)
        )
        shown_loss, grads = implementation.loss_and_grads(state, views)
        state, metrics = implementation.step_on_views(state, views)
        metrics = {name: implementation.to_host(value) for name, value in metrics.items()}
        after = implementation.to_arrays(state)

        # Scores: of this step's normalised prototypes.
        embeddings = embeddings.astype(np.float64)
        expected = embeddings @ params["prototypes.weight"].T
        assert_close(scores, expected, what=f"{what}, scores", **outputs(precision))
        lengths = np.linalg.norm(embeddings, axis=1)
        assert_close(lengths, np.ones(len(embeddings)), precision=maths_precision(precision), what="lengths")

        # Queue: read, then pushed; kept in the state.
        by_view = expected.reshape(config.views, config.batch, -1)
        queued = queue.queue_read(
            before["queue"].astype(np.float64), int(before["queue_count"]), params["prototypes.weight"]
        )
        assert (queued is not None) == settings.use_queue
        own = embeddings.reshape(config.views, config.batch, -1)[list(config.assigned)]
        pushed, count = before["queue"], int(before["queue_count"])
        if settings.push:
            pushed, count = queue.queue_push(pushed, count, own)
        assert int(after["queue_count"]) == count == state.queue_count
        assert_close(after["queue"], pushed, what=f"{what}, queue", **outputs(precision))

        # Codes, loss, metrics.
        codes = codes_of(config, by_view, queued)
        wanted, slope = loss.swapped_loss(by_view, codes, temperature=config.temperature, assigned=config.assigned)
        assert_close(shown_loss, wanted, what=f"{what}, loss", **losses(precision))
        assert_close(metrics["loss"], wanted, what=f"{what}, metrics' loss", **losses(precision))
        assert_close(metrics["lr"], settings.lr, precision=maths_precision(precision), what=f"{what}, lr")
        entropy = -np.sum(codes * np.log(np.maximum(codes, np.finfo(np.float64).tiny)), axis=-1).mean()
        assert_close(metrics["code_entropy"], entropy, what=f"{what}, code entropy", **losses(precision))
        assert int(metrics["prototypes_used"]) == len(np.unique(codes.argmax(axis=-1)))
        assert metrics["finite"].dtype == np.bool_
        assert metrics["finite"].tolist() == [True, True]

        # Gradients are shown for every parameter, the frozen prototypes included.
        assert sorted(grads) == sorted(params)
        expected = np.einsum("nk,nd->kd", slope.reshape(len(embeddings), -1), embeddings)
        assert_close(grads["prototypes.weight"], expected, what=f"{what}, gradient", **gradients(precision))

        # Update: LARC, then SGD; nothing for frozen prototypes.
        used = grads | {"prototypes.weight": None} if settings.frozen else grads
        new_params, new_momentum = optimizer.larc_sgd(
            params,
            used,
            momentum,
            lr=settings.lr,
            weight_decay=config.optimizer.weight_decay,
            trust=config.optimizer.trust,
            decay=config.optimizer.momentum,
        )
        new_model, _, found_momentum = take_apart(after)
        assert_gradients_close(
            {name: value for name, value in found_momentum.items() if value is not None},
            {name: value for name, value in new_momentum.items() if value is not None},
            what=f"{what}, momentum",
            **gradients(precision),
        )
        for name, value in new_params.items():
            assert_close(new_model[name], value, what=f"{what}, {name}", **gradients(precision))
        for name in (name for name in model if name.endswith("num_batches_tracked")):
            calls = 1 if name.startswith("projection_head") else len(config.resolutions)
            assert int(new_model[name]) == int(model[name]) + calls, f"{what}, {name}"


def test_the_queue_and_its_absence_can_be_told_apart(implementation, precision):
    """Or the test above could not see a queue that is never used."""
    state, _ = advance(implementation, precision, start(implementation), FIRST_USE)
    views = views_of(implementation, precision, FIRST_USE)
    shown, _ = implementation.loss_and_grads(state, views)
    _, _, scores = implementation.forward(state, views, train=True)
    scores = implementation.to_host(scores).reshape(CONFIG.views, CONFIG.batch, -1)
    without, _ = loss.swapped_loss(
        scores, codes_of(CONFIG, scores, None), temperature=CONFIG.temperature, assigned=CONFIG.assigned
    )
    # In low precision the two are 10 float32 bounds apart no longer, but beyond what it may round.
    factor = 1 if is_low(precision) else 10
    assert error(shown, without) > factor * bound(**losses(precision))


def test_frozen_prototypes_have_no_buffer(implementation, precision):
    state = start(implementation)
    for step in range(CONFIG.freeze_steps + 1):
        before = implementation.to_arrays(state)["model/prototypes.weight"]
        state, _ = advance(implementation, precision, state, 1)
        arrays = implementation.to_arrays(state)
        frozen = step < CONFIG.freeze_steps
        assert ("momentum/prototypes.weight" in arrays) == (not frozen)
        moved = error(arrays["model/prototypes.weight"], optimizer.normalize_rows(before))
        still = moved <= bound(maths_precision(precision), depth=4)
        assert still == frozen
        assert "momentum/projection_head.0.weight" in arrays


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_init_refuses(implementation, precision, fault):
    weights = initial_weights(NETWORK, 0)
    if fault == "missing":
        del weights["layer1.0.conv1.weight"]
    elif fault == "unexpected":
        weights["layer1.0.conv1.bias"] = np.zeros(6)
    else:
        weights["layer1.0.conv1.weight"] = np.zeros((3, 6, 3, 3))
    with pytest.raises(InvalidInput, match=r"layer1\.0\.conv1\.(weight|bias)"):
        implementation.init(CONFIG, weights)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape", "queue"])
def test_from_arrays_refuses(implementation, precision, fault):
    state, _ = advance(implementation, precision, start(implementation), 1)
    arrays = implementation.to_arrays(state)
    name = {"missing": "step", "unexpected": "model/extra", "shape": "momentum/layer1.0.conv1.weight", "queue": "queue"}
    if fault == "missing":
        del arrays["step"]
    elif fault == "unexpected":
        arrays["model/extra"] = np.zeros(3)
    elif fault == "queue":
        arrays["queue"] = arrays["queue"][:, :-1]
    else:
        arrays[name[fault]] = arrays[name[fault]][1:]
    with pytest.raises(InvalidInput, match=name[fault]):
        implementation.from_arrays(CONFIG, arrays)


def test_looking_changes_nothing(implementation, precision):
    state, _ = advance(implementation, precision, start(implementation), FIRST_USE)
    before = implementation.to_arrays(state)
    views = views_of(implementation, precision, FIRST_USE)
    images = implementation.to_device(random_images(0, 5, 16, 16))
    implementation.loss_and_grads(state, views)
    implementation.forward(state, views, train=True)
    implementation.forward(state, views, train=False)
    spent = implementation.to_host(implementation.encoder_step(state, views))
    implementation.embed(state, images)
    implementation.assign(state, images)
    assert_same_arrays(implementation.to_arrays(state), before, "looked at")
    assert spent.shape == ()
    assert np.isfinite(spent)


def test_arrays_are_named_and_shaped_as_published(implementation, precision):
    state, _ = advance(implementation, precision, start(implementation), CONFIG.freeze_steps + 1)
    arrays = implementation.to_arrays(state)
    expected = {f"model/{name}": shape for name, shape in tensor_shapes(NETWORK).items()}
    expected |= {f"momentum/{name}": tensor_shapes(NETWORK)[name] for name in parameter_names(NETWORK)}
    expected |= {"queue": (2, CONFIG.queue_rows, NETWORK.embedding), "queue_count": (), "step": ()}
    assert {name: value.shape for name, value in arrays.items()} == expected
    for name, value in arrays.items():
        whole = name in {"step", "queue_count"} or name.endswith("num_batches_tracked")
        assert value.dtype == (np.int64 if whole else dtype_of(precision)), name


def test_initial_state_is_the_given_weights(implementation, precision):
    weights = initial_weights(NETWORK, 3)
    arrays = implementation.to_arrays(implementation.init(CONFIG, weights))
    assert [name for name in arrays if name.startswith("momentum/")] == []
    assert (int(arrays["step"]), int(arrays["queue_count"])) == (0, 0)
    for name, value in weights.items():
        assert_same(arrays[f"model/{name}"], value.astype(arrays[f"model/{name}"].dtype), what=name)


@pytest.mark.parametrize("at", [1, FIRST_USE])
def test_resuming_continues_bit_for_bit(implementation, precision, at):
    # In the middle of freeze and filling queue, and with both behind.
    state, _ = advance(implementation, precision, start(implementation), at)
    saved = implementation.to_arrays(state)
    straight, metrics = advance(implementation, precision, state, 2)
    again = implementation.from_arrays(CONFIG, saved)
    assert (again.step, again.config) == (at, CONFIG)
    assert_same_arrays(implementation.to_arrays(again), saved, "restored")
    resumed, resumed_metrics = advance(implementation, precision, again, 2)
    assert_same_arrays(implementation.to_arrays(resumed), implementation.to_arrays(straight), "resumed")
    for name, value in metrics.items():
        assert_same(implementation.to_host(resumed_metrics[name]), implementation.to_host(value), what=name)


def test_a_step_beyond_the_schedule_is_refused(implementation, precision):
    state, _ = advance(implementation, precision, start(implementation), CONFIG.schedule.steps)
    with pytest.raises(InvalidInput, match="step = 6"):
        advance(implementation, precision, state, 1)


@pytest.mark.needs("views")
@pytest.mark.parametrize("resident", [False, True])
def test_step_from_pixels(implementation, precision, resident):
    images = random_images(8, 4, 20, 20)
    samples = np.array([2, 0, 3, 1])
    plan = crop_plan(
        CONFIG, seed=1, epoch=0, samples=samples, heights=20, widths=20, index=samples if resident else None
    )
    given = implementation.to_device(images if resident else images[samples])
    views = implementation.views(given, plan, CONFIG)
    expected, wanted = implementation.step_on_views(start(implementation), views)
    state, metrics = implementation.step(start(implementation), given, plan)
    assert state.step == 1
    assert sorted(metrics) == sorted(wanted)
    found, expected_loss = (implementation.to_host(one["loss"]) for one in (metrics, wanted))
    assert_close(found, expected_loss, what="loss", **losses(precision))
    _, params, _ = take_apart(implementation.to_arrays(state))
    _, wanted_params, _ = take_apart(implementation.to_arrays(expected))
    for name, value in wanted_params.items():
        assert_close(params[name], value, what=name, **gradients(precision))


def test_embed_and_assign_are_the_forward_pass(implementation, precision):
    state, _ = advance(implementation, precision, start(implementation), 2)
    images = random_images(2, 5, 16, 16)
    whole = implementation.to_device(normalised(images, CONFIG).astype(dtype_of(precision)))
    features, embeddings, scores = (
        implementation.to_host(part) for part in implementation.forward(state, [whole], train=False)
    )
    on_device = implementation.to_device(images)
    for found, expected, what in zip(
        implementation.embed(state, on_device), (features, embeddings), ("features", "embeddings"), strict=True
    ):
        assert_close(implementation.to_host(found), expected, what=what, **outputs(precision))
    assigned = implementation.to_host(implementation.assign(state, on_device))
    assert np.issubdtype(assigned.dtype, np.integer)
    assert assigned.tolist() == scores.argmax(axis=1).tolist()


def test_training_and_running_statistics_differ(implementation, precision):
    state = start(implementation)
    views = views_of(implementation, precision, 0)
    trained, running = (
        implementation.to_host(implementation.forward(state, views, train=train)[0]) for train in (True, False)
    )
    assert error(trained, running) > bound(**outputs(precision))


def test_gradients_are_finite_differences(make_implementation):
    # In float64 only: the differences of a rounded function say nothing at this size.
    precision = "float64"
    implementation = make_implementation(precision)
    config = CONFIG  # at step 0, when no queue is used yet
    weights = initial_weights(NETWORK, 3)
    views = views_of(implementation, precision, 0)
    prototypes = optimizer.normalize_rows(weights["prototypes.weight"])

    def scores_with(changed, classes):
        _, embeddings, _ = implementation.forward(implementation.init(config, changed), views, train=True)
        return (implementation.to_host(embeddings) @ classes.T).reshape(config.views, config.batch, -1)

    # Codes carry no gradient: they stay what they are at the start.
    codes = codes_of(config, scores_with(weights, prototypes), None)

    def loss_with(changed, classes):
        return loss.swapped_loss(
            scores_with(changed, classes), codes, temperature=config.temperature, assigned=config.assigned
        )[0]

    _, grads = implementation.loss_and_grads(implementation.init(config, weights), views)
    largest = max(float(np.linalg.norm(grad)) for grad in grads.values())
    rng = np.random.default_rng(0)
    size = 1e-6
    for name in parameter_names(NETWORK):
        direction = rng.normal(size=weights[name].shape)
        direction /= np.linalg.norm(direction)
        sides = []
        for sign in (1, -1):
            change = sign * size * direction
            if name == "prototypes.weight":
                sides.append(loss_with(weights, prototypes + change))
            else:
                sides.append(loss_with(weights | {name: weights[name] + change}, prototypes))
        difference = (sides[0] - sides[1]) / (2 * size)
        assert_finite_difference(float(np.vdot(grads[name], direction)), difference, scale=largest, what=name)


def test_scores_that_are_not_finite_raise_the_flag(implementation, precision):
    # Behind the last ReLU, since some let no NaN through.
    weights = initial_weights(NETWORK, 3)
    weights["projection_head.3.bias"][2] = np.nan
    state = implementation.init(CONFIG, weights)
    _, metrics = advance(implementation, precision, state, 1)
    assert implementation.to_host(metrics["finite"]).tolist() == [False, False]


@pytest.mark.parametrize("slot", [0, 1])
def test_the_flag_is_of_one_view(implementation, precision, slot):
    state, _ = advance(implementation, precision, start(implementation), FIRST_USE)
    arrays = implementation.to_arrays(state)
    arrays["queue"][slot, -1, 0] = np.inf
    state = implementation.from_arrays(CONFIG, arrays)
    _, metrics = advance(implementation, precision, state, 1)
    assert implementation.to_host(metrics["finite"]).tolist() == [slot != 0, slot != 1]


#: No queue and no freeze, so that one program does for all steps.
OTHERS = {
    kind: dataclasses.replace(
        CONFIG,
        freeze_steps=0,
        queue_length=0,
        queue_start=0,
        schedule=dataclasses.replace(CONFIG.schedule, base_lr=0.05, start_warmup=0.01),
        optimizer=Optimizer(kind=kind, momentum=0.8, weight_decay=1e-2),
    )
    for kind in ("sgd", "adam")
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_optimizers(implementation, precision, kind):
    config = OTHERS[kind]
    state = start(implementation, config)
    names = parameter_names(NETWORK)
    first = dict.fromkeys(names, 0.0)
    second = dict.fromkeys(names, 0.0)
    for step in range(3):
        views = views_of(implementation, precision, step)
        _, params, momentum = take_apart(implementation.to_arrays(state))
        params["prototypes.weight"] = optimizer.normalize_rows(params["prototypes.weight"])
        _, grads = implementation.loss_and_grads(state, views)
        lr = step_settings(config, step, 0).lr
        state, _ = implementation.step_on_views(state, views)
        arrays = implementation.to_arrays(state)
        found = take_apart(arrays)[1]
        settings = gradients(precision)
        if kind == "sgd":
            expected, buffers = optimizer.sgd(params, grads, momentum, lr=lr, weight_decay=1e-2, decay=0.8)
            for name in names:
                assert_close(found[name], expected[name], what=f"step {step}, {name}", **settings)
            buffers_found = {name: arrays[f"momentum/{name}"] for name in names}
            assert_gradients_close(buffers_found, buffers, what=f"step {step}, momentum", **settings)
            continue
        assert [name for name in arrays if name.startswith("momentum/")] == []
        assert int(arrays["adam_count"]) == step + 1
        for name in names:
            gradient = grads[name].astype(np.float64) + 1e-2 * params[name]
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            what = f"step {step}, {name}"
            assert_close(arrays[f"adam_m/{name}"], first[name], what=f"{what}, first moment", **settings)
            assert_close(arrays[f"adam_v/{name}"], second[name], what=f"{what}, second moment", **settings)
            assert_adam_close(
                found[name],
                params[name],
                arrays[f"adam_m/{name}"],
                arrays[f"adam_v/{name}"],
                lr=lr,
                count=step + 1,
                precision=precision,
                what=what,
            )


def test_adam_resumes(implementation, precision):
    config = OTHERS["adam"]
    state, _ = advance(implementation, precision, start(implementation, config), 2)
    saved = implementation.to_arrays(state)
    straight, _ = advance(implementation, precision, state, 1)
    resumed, _ = advance(implementation, precision, implementation.from_arrays(config, saved), 1)
    assert_same_arrays(implementation.to_arrays(resumed), implementation.to_arrays(straight), "resumed")


@pytest.mark.parametrize("low", ["tf32", "bfloat16"])
def test_low_precision_stays_near_float32(make_implementation, low):
    results = {}
    for precision in ("float32", low):
        implementation = make_implementation(precision)
        state = start(implementation)
        views = views_of(implementation, precision, 0)
        given = [implementation.to_host(part) for part in implementation.forward(state, views, train=True)]
        shown, grads = implementation.loss_and_grads(state, views)
        state, metrics = advance(implementation, precision, state, 2)
        assert np.isfinite(implementation.to_host(metrics["loss"]))
        # Weights, buffers and all that follows the head are float32 whatever the products are in.
        arrays = implementation.to_arrays(state)
        assert {value.dtype for name, value in arrays.items() if name.endswith("weight")} == {np.dtype(np.float32)}
        assert [part.dtype for part in given[1:]] == [np.float32] * 2
        results[precision] = (*given, np.array(shown), grads["projection_head.3.weight"])
    names = ("features", "embeddings", "scores", "loss", "gradient")
    for name, found, expected in zip(names, results[low], results["float32"], strict=True):
        # Two factors of each product are rounded; gradients are as many products back.
        gain = 4 if name == "gradient" else 1
        assert_close(found, expected, precision=low, depth=2, gain=gain, what=f"{low}, {name}")
    if low == "bfloat16":
        assert error(results[low][1], results["float32"][1]) > bound("float32", depth=DEPTH), "not computed in bfloat16"
