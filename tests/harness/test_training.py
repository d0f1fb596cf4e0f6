"""The training loop: the right crops in the right order, and nothing read between fences."""

from __future__ import annotations

import numpy as np
import pytest

from swav_bench import inputs, training
from swav_data.epochs import batch_samples
from swav_data.sources import load
from swav_spec.network import initial_weights


class Recorder:
    """A trainer that notes what is asked of it."""

    def __init__(self):
        self.calls = []
        self.plans = []

    def init(self, config):
        from types import SimpleNamespace

        return SimpleNamespace(config=config, step=0)

    def to_device(self, array):
        return array

    def step(self, state, images, plan):
        self.calls.append("step")
        self.plans.append(plan)
        state.step += 1
        return state, {"loss": float(state.step), "finite": np.array([True, True])}

    def fence(self, *values):
        self.calls.append("fence")

    def to_host(self, array):
        self.calls.append("read")
        return np.asarray(array)


@pytest.fixture
def data(images):
    return load(images).train


def go(cell, data, fences, trainer, state=None):
    spans = []
    state = state or trainer.init(cell().config(samples=len(data)))
    feed = inputs.Resident(trainer, data, state.config, seed=5)
    trainer.calls.clear()
    state = training.train(trainer, state, feed, fences=fences, observe=spans.append)
    return state, spans


def test_steps_get_the_plans_of_their_place_in_the_run(cell, data):
    trainer = Recorder()
    go(cell, data, [1, 5, 20], trainer)
    assert len(trainer.plans) == 20
    config = cell().config(samples=len(data))
    for step, plan in enumerate(trainer.plans):
        expected = inputs.step_plan(config, data, 5, step)
        assert np.array_equal(plan.index, batch_samples(len(data), 16, 5, step)[1])
        assert np.array_equal(plan.groups[0].box, expected.groups[0].box)


def test_a_run_in_two_parts_gets_the_same_plans(cell, data):
    whole, parts = Recorder(), Recorder()
    go(cell, data, [20], whole)
    state, _ = go(cell, data, [7], parts)
    go(cell, data, [20], parts, state)
    for one, other in zip(whole.plans, parts.plans, strict=True):
        assert np.array_equal(one.groups[0].box, other.groups[0].box)


def test_the_device_is_waited_for_and_read_at_fences_only(cell, data):
    trainer = Recorder()
    _, spans = go(cell, data, [1, 6], trainer)
    first = trainer.calls.index("fence")
    assert trainer.calls[:first] == ["step"]
    second = trainer.calls.index("fence", first + 1)
    between = trainer.calls[first + 1 : second]
    assert between[-5:] == ["step"] * 5
    assert set(between[:-5]) == {"read"}
    assert [span.done for span in spans] == [1, 6]
    assert spans[1].losses.tolist() == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("metric", "value", "words"),
    [
        ("finite", np.array([True, False]), "scores of view 1 were not finite in step 3"),
        ("loss", float("nan"), "the loss was nan in step 3"),
    ],
)
def test_a_breakdown_names_its_step(cell, data, metric, value, words):
    class Breaking(Recorder):
        def step(self, state, images, plan):
            state, metrics = super().step(state, images, plan)
            return state, metrics | ({metric: value} if state.step == 4 else {})

    with pytest.raises(training.NotFiniteError, match=words):
        go(cell, data, [1, 10], Breaking())


def test_an_error_in_the_loop_leaves_no_thread(cell, data):
    import threading

    class Failing(Recorder):
        def step(self, state, images, plan):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        go(cell, data, [10], Failing())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("input")]


def test_the_weights_of_a_run_come_from_its_seed_alone(cell):
    network = cell().config(samples=96).network
    one, again, other = (initial_weights(network, seed)["prototypes.weight"] for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
