"""The peer of lightly's modules: it does what plain torch does, by lightly's names for it, and says what it lacks."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
from tests import stand_in

from swav_bench.cells import Cell
from swav_bench.kernels import maths_of
from swav_spec import registry, sinkhorn
from swav_spec.config import Config, CropGroup, Execution, Network, Optimizer, Schedule
from swav_spec.errors import InvalidInput
from swav_spec.network import initial_weights
from swav_spec.testing.assertions import assert_close, assert_gradients_close, assert_same

LARGE, SMALL = CropGroup(16, 2, (0.14, 1.0)), CropGroup(8, 2, (0.05, 0.14))
#: Queue of three batches from step 1: first used in step 4, and a bank's end and start meet after every third push.
CONFIG = Config(
    batch=4,
    crops=(LARGE, SMALL),
    network=Network(
        block="conv", depths=(1, 1), widths=(6, 8), strides=(2, 2), stem="none", hidden=12, embedding=6, prototypes=7
    ),
    schedule=Schedule(steps=9, base_lr=0.8, final_lr=0.01, warmup_steps=2, start_warmup=0.2),
    optimizer=Optimizer(weight_decay=1e-2, trust=0.02),
    queue_length=13,
    queue_start=1,
    freeze_steps=2,
)
#: What lightly calls high resolution are the assigned views, and all others low: in whatever order, of whatever size.
CONFIGS = {
    "multi-crop": CONFIG,
    "no queue": dataclasses.replace(CONFIG, queue_length=0),
    "queue of one batch": dataclasses.replace(CONFIG, queue_length=4),
    "a large view that only predicts": dataclasses.replace(CONFIG, crops=(LARGE, LARGE, SMALL), assigned=(2, 0)),
    "small views in between": dataclasses.replace(CONFIG, crops=(LARGE, SMALL, LARGE), assigned=(5, 1)),
    "one assigned, Adam": dataclasses.replace(
        CONFIG, crops=(LARGE,), assigned=(1,), optimizer=Optimizer("adam", weight_decay=1e-2)
    ),
    "other numbers": dataclasses.replace(CONFIG, epsilon=0.3, temperature=0.7, iterations=1),
}
KINDS = ("model/", "momentum/", "adam_m/", "adam_v/")
ADVICE = "pip install 'swav-bench[lightly]'"


@pytest.fixture(scope="module", autouse=True)
def _torchvision():
    with pytest.MonkeyPatch.context() as patch:
        stand_in.for_torchvision(patch)
        yield


@pytest.fixture(scope="module")
def double(_torchvision):
    """Name -> the implementation in float64."""
    return {name: registry.load(name, Execution(precision="float64")) for name in ("lightly", "plain-torch", "torch")}


def cell(images, name):
    fields = {"suite": "demo", "mode": "default", "device": "cpu", "precision": "float32", "recipe": "textures"}
    fields |= {"dataset": str(images), "batch": 16, "multi_crop": True, "queue_rows": 32, "seed": 0, "steps": 15}
    return Cell(implementation=name, **fields)


def package_that_raises(folder, error):
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(f"raise {error!r}")


def views_of(implementation, config, step):
    draw = np.random.default_rng([7, step])
    shapes = [(count * config.batch, size, size, 3) for size, count in config.resolutions]
    return [implementation.to_device(draw.normal(size=shape)) for shape in shapes]


def assert_equal(found, expected, what):
    assert sorted(found) == sorted(expected), what
    for name, value in expected.items():
        assert_same(found[name], value, what=f"{what}, {name}")


def assert_same_state(found, expected, what):
    """Equal arrays of two implementations, but for rounding."""
    assert sorted(found) == sorted(expected), what
    for kind in KINDS:
        of_kind = (
            {name.removeprefix(kind): value for name, value in arrays.items() if name.startswith(kind)}
            for arrays in (found, expected)
        )
        assert_gradients_close(*of_kind, precision="float64", what=f"{what}, {kind}")
    for name in expected:
        if "/" not in name:
            assert_close(found[name], expected[name], precision="float64", what=f"{what}, {name}")


def step_both(peers, states, config, what):
    """One step of both, with what it shows before and after compared; the next states."""
    (peer, other), (state, other_state) = peers, states
    views, other_views = (views_of(one, config, state.step) for one in peers)
    loss, grads = peer.loss_and_grads(state, views)
    expected_loss, expected_grads = other.loss_and_grads(other_state, other_views)
    assert_close(loss, expected_loss, precision="float64", what=f"{what}, loss")
    assert_gradients_close(grads, expected_grads, precision="float64", what=what)
    state, metrics = peer.step_on_views(state, views)
    other_state, expected = other.step_on_views(other_state, other_views)
    assert sorted(metrics) == sorted(expected)
    for name, value in expected.items():
        assert_close(
            peer.to_host(metrics[name]), other.to_host(value), precision="float64", what=f"{what}, metric {name}"
        )
    assert_same_state(peer.to_arrays(state), other.to_arrays(other_state), what)
    return state, other_state


@pytest.mark.parametrize("name", CONFIGS)
def test_every_step_is_plain_torch_s(double, name):
    config = CONFIGS[name]
    peers = double["lightly"], double["plain-torch"]
    states = tuple(one.init(config, initial_weights(config.network, 3)) for one in peers)
    for step in range(config.schedule.steps):
        states = step_both(peers, states, config, f"step {step}")
    assert states[0].queue_count == (32 if config.queue_length else 0)


@pytest.mark.parametrize("step", [0, 1, 2, 4, 6])
def test_a_run_moves_in_and_out_at_any_filling_of_the_queue(double, step):
    peer, column = double["lightly"], double["torch"]
    state = column.init(CONFIG, initial_weights(CONFIG.network, 3))
    for number in range(step):
        state, _ = column.step_on_views(state, views_of(column, CONFIG, number))
    given = column.to_arrays(state)
    moved = peer.from_arrays(CONFIG, given)
    assert_equal(peer.to_arrays(moved), given, "moved in")
    for number in range(step, step + 2):
        moved, state = step_both((peer, column), (moved, state), CONFIG, f"step {number}")
    given = peer.to_arrays(moved)
    back = column.from_arrays(CONFIG, given)
    assert_equal(column.to_arrays(back), given, "moved out")
    again = peer.from_arrays(CONFIG, given)
    step_both((peer, column), (again, back), CONFIG, "after both ways")


def test_the_codes_of_each_assigned_view_are_kept_once(double):
    from swav_plain_torch.lightly_modules import Loss

    scores = np.random.default_rng(5).uniform(-1, 1, (4, 5, 7))
    criterion = Loss(CONFIG)
    sent = list(double["lightly"].to_device(scores))
    criterion(sent[:2], sent[2:])
    expected = [sinkhorn.sinkhorn(of_view, epsilon=CONFIG.epsilon) for of_view in scores[:2]]
    found = np.stack([double["lightly"].to_host(codes) for codes in criterion.codes])
    assert_close(found, np.stack(expected), precision="float64", what="codes")


def test_what_differs_a_prototype_without_length_is_not_finite(double):
    weights = initial_weights(CONFIG.network, 3)
    weights["prototypes.weight"][2] = 0
    finite = {}
    for name in ("lightly", "plain-torch"):
        state = double[name].init(CONFIG, weights)
        _, metrics = double[name].step_on_views(state, views_of(double[name], CONFIG, 0))
        finite[name] = double[name].to_host(metrics["finite"]).tolist()
    assert finite == {"lightly": [False, False], "plain-torch": [True, True]}


def test_peers_are_those_that_only_train(double):
    assert {name for name, one in double.items() if one.fulfils == ("trainer",)} == registry.PEERS


def test_it_has_nothing_of_maths_to_time(double):
    assert maths_of(double["lightly"]) is None
    assert maths_of(double["plain-torch"]) is not None


def test_it_is_eager_only():
    with pytest.raises(InvalidInput, match="mode = 'compile'"):
        registry.load("lightly", Execution(mode="compile"))


def test_the_gate_judges_it_beside_the_column(run, images):
    import lightly

    column, peer = run(cell(images, "torch"), cell(images, "lightly"), parts=True)
    assert (column["status"], peer["status"]) == ("ok", "ok"), (column["reason"], peer["reason"])
    assert peer["parity"]["against"] == "torch"
    assert peer["parity"]["loss_error"] <= peer["parity"]["loss_bound"]
    assert peer["notes"][0].startswith("its views are its own")
    assert any(note.startswith("parts: queue, Sinkhorn, loss and optimiser are in the rest") for note in peer["notes"])
    described = peer["environment"]["implementation"]
    assert (described["framework"], described["version"]) == ("lightly", lightly.__version__)
    assert described["flags"]["torch"] == column["environment"]["implementation"]["version"]
    assert "bias" in described["flags"]["prototypes"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("No module named 'torchvision'"), "cannot be imported"),
        # As a build for another release of torch does, or for another device.
        (RuntimeError("operator torchvision::nms does not exist"), "is installed, but cannot be imported"),
    ],
    ids=["missing", "of another build"],
)
def test_a_cell_says_what_is_wrong_with_torchvision(run, images, tmp_path, monkeypatch, error, said):
    package_that_raises(tmp_path / "path" / "torchvision", error)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"), prepend=os.pathsep)
    (record,) = run(cell(images, "lightly"))
    assert record["status"] == "error"
    assert record["reason"].startswith(f"implementation = 'lightly': lightly.loss {said} ({error}); ")
    assert record["reason"].endswith(ADVICE)


def test_without_lightly_a_run_is_refused(run, images, tmp_path, monkeypatch):
    package_that_raises(tmp_path / "path" / "lightly", ModuleNotFoundError("No module named 'lightly'"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"), prepend=os.pathsep)
    with pytest.raises(InvalidInput, match=r"lightly\.loss is not installed; install it with: ") as refused:
        run(cell(images, "lightly"))
    assert str(refused.value).endswith(ADVICE)
