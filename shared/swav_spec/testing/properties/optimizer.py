"""What is true of LARC over SGD with momentum. p tensors, g their gradients, g' what LARC makes of them."""

from __future__ import annotations

from typing import NamedTuple

import hypothesis.strategies as st
import numpy as np

from swav_spec import optimizer as specification
from swav_spec.network import parameter_names
from swav_spec.schedule import learning_rates
from swav_spec.testing import runs
from swav_spec.testing.assertions import assert_close, assert_same, is_low
from swav_spec.testing.properties import holds
from swav_spec.testing.properties.network import FEW, TRAINER, run_seeds
from swav_spec.testing.strategies import TENSORS, Update, updates
from swav_spec.testing.subject import Subject

PROTOTYPES = "prototypes.weight"
#: Roundings in a row: two norms, their quotient, decay, momentum, step.
DEPTH = 8


def stepped(subject: Subject, update: Update, **changes):
    """The subject's tensors and buffers after a step, with some settings changed."""
    return subject.larc_sgd(update.params, update.grads, update.momentum, **{**update.settings, **changes})


def close(
    subject: Subject, actual: np.ndarray | None, expected: np.ndarray | None, what: str, scale: float = 0.0
) -> None:
    """Tensors or buffers agree as far as rounding lets them; or both are missing."""
    assert (actual is None) == (expected is None), f"{what}: {actual!r} against {expected!r}"
    if expected is not None:
        assert_close(actual, expected, precision=subject.maths, depth=DEPTH, scale=scale, what=what)


class Scales(NamedTuple):
    """Sizes of what a step adds up. The sums may be far smaller: a gradient can cancel the decay, a buffer both.

    Attributes:
        update: trust ratio times (|g| + decay |p|), largest elements.
        buffer: the same and the decayed buffer.
        param: the tensor and the rate times the buffer.
    """

    update: float
    buffer: float
    param: float


def scales(update: Update, name: str, decay: float = 0.9) -> Scales:
    """Of a tensor that has a gradient; zeros of one that has none."""
    p, g, before = update.params[name], update.grads[name], update.momentum[name]
    if g is None:
        return Scales(0.0, 0.0, 0.0)
    p_norm, g_norm, wd = np.linalg.norm(p), np.linalg.norm(g), update.weight_decay
    ratio = 1.0
    if p_norm and g_norm:
        ratio = update.trust * p_norm / (g_norm + wd * p_norm + specification.LARC_EPSILON)
    moved = float(ratio * (np.abs(g).max() + wd * np.abs(p).max()))
    buffer = moved + (0.0 if before is None else decay * float(np.abs(before).max()))
    return Scales(moved, buffer, float(np.abs(p).max()) + update.lr * buffer)


def trained(update: Update) -> list[str]:
    """Names of the tensors that have a gradient."""
    return [name for name, gradient in update.grads.items() if gradient is not None]


@holds("larc_sgd", update=updates())
def equals_the_specification(subject: Subject, update: Update) -> None:
    """Tensors and buffers after a step are those of the specification."""
    params, momentum = stepped(subject, update)
    expected, expected_momentum = specification.larc_sgd(
        update.params, update.grads, update.momentum, **update.settings
    )
    assert set(params) == set(expected), f"tensors {sorted(params)} against {sorted(expected)}"
    for name in expected:
        size = scales(update, name)
        close(subject, momentum.get(name), expected_momentum[name], f"buffer of {name}", size.buffer)
        close(subject, params[name], expected[name], name, size.param)


@holds("larc_sgd", update=updates())
def a_missing_gradient_changes_nothing(subject: Subject, update: Update) -> None:
    """A tensor without a gradient keeps its values, and its buffer, if it has one."""
    grads = dict.fromkeys(update.grads)
    params, momentum = stepped(subject, update._replace(grads=grads))
    for name, value in update.params.items():
        assert_same(params[name], value.astype(params[name].dtype), what=f"{name} without a gradient")
        buffer = update.momentum[name]
        if buffer is None:
            assert momentum.get(name) is None, f"a buffer of {name} came from no gradient"
        else:
            assert_same(
                momentum[name], buffer.astype(momentum[name].dtype), what=f"buffer of {name} without a gradient"
            )


@holds("larc_sgd", update=updates(), which=st.sampled_from(("params", "grads")))
def a_zero_norm_is_plain_sgd(subject: Subject, update: Update, which: str) -> None:
    """Where a tensor or its gradient is all zeros, g' = g: no decay and no scaling."""
    zeros = {name: np.zeros(shape) for name, shape in TENSORS.items()}
    grads = {name: zeros[name] if g is None else g for name, g in update.grads.items()}
    update = update._replace(grads=grads)._replace(**{which: zeros})
    params, momentum = stepped(subject, update)
    for name, value in update.params.items():
        before = update.momentum[name]
        buffer = update.grads[name] if before is None else 0.9 * before + update.grads[name]
        size = scales(update, name)
        close(subject, momentum[name], buffer, f"buffer of {name} with zero {which}", size.buffer)
        close(subject, params[name], value - update.lr * buffer, f"{name} with zero {which}", size.param)


@holds("larc_sgd", update=updates())
def the_rate_is_outside_the_buffer(subject: Subject, update: Update) -> None:
    """The buffer does not depend on the learning rate, and a tensor moves by the rate times its new buffer."""
    params, momentum = stepped(subject, update)
    _, other = stepped(subject, update, lr=update.lr * 2)
    for name in trained(update):
        size = scales(update, name)
        close(subject, other[name], momentum[name], f"buffer of {name} at twice the rate", size.buffer)
        expected = update.params[name] - update.lr * momentum[name].astype(np.float64)
        close(subject, params[name], expected, f"{name} minus rate times buffer", size.param)


@holds("larc_sgd", update=updates(), decay=st.sampled_from((0.0, 0.5, 0.9)))
def a_buffer_decays_and_adds(subject: Subject, update: Update, decay: float) -> None:
    """A new buffer is decay times the old one plus what a first step, without one, makes it."""
    _, first = stepped(subject, update._replace(momentum={}.fromkeys(update.momentum)), decay=decay)
    _, momentum = stepped(subject, update, decay=decay)
    for name in trained(update):
        before = update.momentum[name]
        expected = first[name].astype(np.float64) + (0.0 if before is None else decay * before)
        close(subject, momentum[name], expected, f"buffer of {name}", scales(update, name, decay).buffer)


@holds("larc_sgd", update=updates())
def every_rank_is_scaled(subject: Subject, update: Update) -> None:
    """A first buffer has norm trust |p| |g + decay p| / (|g| + decay |p| + 1e-8), biases included."""
    _, momentum = stepped(subject, update._replace(momentum={}.fromkeys(update.momentum)))
    for name in trained(update):
        p, g = update.params[name], update.grads[name]
        if not p.any() or not g.any():
            continue
        p_norm, g_norm = np.linalg.norm(p), np.linalg.norm(g)
        decayed = np.linalg.norm(g + update.weight_decay * p)
        norm = update.trust * p_norm * decayed / (g_norm + update.weight_decay * p_norm + specification.LARC_EPSILON)
        found = np.linalg.norm(momentum[name].astype(np.float64))
        size = scales(update, name).update * np.sqrt(p.size)
        close(subject, found, norm, f"norm of the buffer of {name}", size)


@holds("larc_sgd", update=updates())
def tensors_do_not_see_each_other(subject: Subject, update: Update) -> None:
    """A tensor alone moves as it does among others."""
    params, momentum = stepped(subject, update)
    for name in TENSORS:
        alone = update._replace(
            **{part: {name: getattr(update, part)[name]} for part in ("params", "grads", "momentum")}
        )
        alone_params, alone_momentum = stepped(subject, alone)
        size = scales(update, name)
        close(subject, params[name], alone_params[name].astype(np.float64), f"{name} alone", size.param)
        close(subject, momentum.get(name), alone_momentum.get(name), f"buffer of {name} alone", size.buffer)


@holds(*TRAINER, seed=run_seeds, share=FEW)
def training_updates_by_the_rule(subject: Subject, seed: int) -> None:
    """A step's tensors and buffers are LARC's or SGD's from its own gradients, at the schedule's rate, with the
    prototypes normalised before it and not after, and left out while frozen.
    """
    for step in runs.runs(subject, seed):
        config, chosen = step.config, step.config.optimizer
        names = parameter_names(config.network)
        params = {name: step.before[f"model/{name}"] for name in names}
        params[PROTOTYPES] = specification.normalize_rows(params[PROTOTYPES])
        grads = dict(step.grads)
        if step.number < config.freeze_steps:
            grads[PROTOTYPES] = None
        momentum = {name: step.before.get(f"momentum/{name}") for name in names}
        settings = {"weight_decay": chosen.weight_decay, "decay": chosen.momentum}
        settings["lr"] = float(learning_rates(config.schedule)[step.number])
        if chosen.kind == "sgd":
            expected, buffers = specification.sgd(params, grads, momentum, **settings)
        else:
            expected, buffers = specification.larc_sgd(params, grads, momentum, trust=chosen.trust, **settings)
        for name in names:
            found, wanted = step.after.get(f"momentum/{name}"), buffers[name]
            assert (found is None) == (wanted is None), (
                f"{step.where}: buffer of {name} {'missing' if found is None else 'made'}"
            )
            if name.endswith("projection_head.0.bias"):
                # Its gradient is 0 but for rounding, which LARC scales up: only its direction is left to chance.
                continue
            if wanted is not None:
                step.close(subject, found, wanted, step.gains.grads[name], f"buffer of {name}")
            # A step may round its products otherwise than the gradients that were shown, which in float32 is no matter.
            gain = step.gains.after[f"model/{name}"] if is_low(subject.precision) else 1.0
            step.close(subject, step.after[f"model/{name}"], expected[name], gain, name)
