"""What a measured process does, without the process; and a GPU that is not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from swav_bench import nvml, parity
from swav_bench.measure import Measurement
from swav_bench.nvml import Reading

NO_MATHS = "parts: queue, Sinkhorn, loss and optimiser are in the rest, as the implementation has none alone"


@pytest.fixture
def measure(cell, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    events = []

    class Reporter:
        def send(self, event, **values):
            events.append((event, values))

        def phase(self, name):
            events.append(("phase", name))

    def go(name="Fake", against=None, job=None, **changes):
        events.clear()
        asked = {"cell": cell(name, **changes).to_job(), "parity": against, "first_step": None, "raw_pixels": None}
        measurement = Measurement(asked | (job or {}), Reporter())
        measurement.run()
        return measurement, events

    return go


@pytest.fixture
def gpu(monkeypatch):
    joules = iter([100.0, 350.0])
    condition = {"sm_clock_mhz": 1980, "temperature_c": 50, "throttle_reasons": [], "other_processes": 2}
    found = SimpleNamespace(
        describe=lambda: {"name": "Chip", "memory_bytes": 1, "driver": "1", "power_limit_w": None},
        energy=lambda: Reading(time_s=next(times), joules=next(joules)),
        condition=lambda: condition,
        process_bytes=lambda: 123,
    )
    times = iter([0.0, 20.0])
    monkeypatch.setattr(nvml, "first_gpu", lambda: found)
    return found


def test_energy_is_counted_over_the_timed_blocks(measure, gpu):
    measured, _ = measure(device="gpu", steps=30)
    assert measured.found["memory"]["nvml_process_bytes"] == 123
    energy = measured.found["energy"]
    assert (energy["joules"], energy["window_s"], energy["samples"]) == (250.0, 20.0, 20 * 16)
    assert energy["before"] == gpu.condition()
    assert measured.found["notes"] == ["2 other processes were on the GPU"]


def test_a_window_that_is_too_short_for_energy_says_so(measure, gpu, monkeypatch):
    monkeypatch.setattr(nvml, "SHORTEST_WINDOW_S", 30.0)
    measured, _ = measure(device="gpu")
    assert "energy" not in measured.found
    assert measured.found["notes"][-1] == "energy is left out: 20.0 s of training are too short to count it"


def test_the_bare_encoder_is_timed_after_training_in_blocks_like_its_own(measure):
    measured, events = measure(steps=110)
    phases = [value for event, value in events if event == "phase"]
    assert phases.index("training") + 1 == phases.index("timing the bare encoder")
    found, timing = measured.found["overhead"], measured.found["timing"]
    assert found["encoder_steps_per_block"] <= timing["steps_per_block"]
    assert 5 <= len(found["encoder_block_s"]) <= len(timing["block_s"])
    assert measured.found["notes"] == []


def test_a_slow_encoder_takes_the_fewest_blocks_and_no_more(measure):
    measured, _ = measure("SlowEncoder", steps=110)
    found = measured.found["overhead"]
    assert found["encoder_steps_per_block"] == 1
    assert len(found["encoder_block_s"]) == 5
    assert min(found["encoder_block_s"]) >= 0.05


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("WithoutEncoder", "overhead is not known: the implementation has no encoder_step"),
        ("BrokenEncoder", "timing the bare encoder failed: RuntimeError: no backward pass for kernel.cu"),
    ],
)
def test_without_an_encoder_the_training_still_counts(measure, name, note):
    measured, _ = measure(name)
    assert measured.status == "ok"
    assert "overhead" not in measured.found
    assert measured.found["notes"] == [note]


def test_parts_are_timed_on_request_and_change_nothing(measure, images_with_test):
    fields = {"dataset": str(images_with_test), "queue_rows": 32, "steps": 20, "multi_crop": True}
    plain, _ = measure("WithMaths", **fields)
    assert "parts" not in plain.found
    measured, _ = measure("WithMaths", job={"parts": True}, **fields)
    names = [part["name"] for part in measured.found["parts"]["measured"]]
    assert names == ["views", "forward", "queue", "sinkhorn", "loss", "encoder"]
    assert measured.found["notes"] == ["parts: the update is in the rest, as the contract has no sgd alone"]
    assert measured.found["parts"]["measured"][-1]["block_s"] == measured.found["overhead"]["encoder_block_s"]
    assert measured.found["accuracy"] == plain.found["accuracy"]
    assert measured.found["learning"]["loss_curve"] == plain.found["learning"]["loss_curve"]


def test_parts_that_an_implementation_does_not_have_alone_are_in_the_rest(measure):
    measured, _ = measure(job={"parts": True}, input="views")
    assert [part["name"] for part in measured.found["parts"]["measured"]] == ["forward", "encoder"]
    assert [note for note in measured.found["notes"] if "in the rest" in note] == [NO_MATHS]
    own, _ = measure("OwnViews", job={"parts": True})
    assert [part["name"] for part in own.found["parts"]["measured"]] == ["forward", "encoder"]
    said = [note for note in own.found["notes"] if "in the rest" in note]
    assert said == ["parts: its views are in the rest, as they are its own", NO_MATHS]


def test_a_trace_is_of_steps_like_the_last_ones_and_changes_nothing(measure, images_with_test, tmp_path):
    fields = {"dataset": str(images_with_test), "steps": 20}
    plain, _ = measure("Traced", **fields)
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "of an earlier run").touch()
    measured, events = measure("Traced", job={"trace": str(tmp_path / "cell")}, **fields)
    names = ["trace.json.gz", "trace.xplane.pb", "2-trace.xplane.pb"]
    files = ", ".join(f"cell/{name}" for name in names)
    assert measured.found["notes"] == [f"3 steps were traced: {files}"]
    assert sorted(path.name for path in (tmp_path / "cell").iterdir()) == sorted(names)
    assert (tmp_path / "cell" / names[0]).read_text() == "[18, 19, 20]"
    assert measured.found["accuracy"] == plain.found["accuracy"]
    phases = [value for event, value in events if event == "phase"]
    assert phases.index("timing the bare encoder") < phases.index("tracing") < phases.index("evaluating")


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("Fake", "there is no trace: the implementation has none to offer"),
        ("BrokenTrace", "tracing failed: RuntimeError: CUPTI is busy"),
    ],
)
def test_without_a_trace_the_training_still_counts(measure, tmp_path, name, note):
    measured, _ = measure(name, job={"trace": str(tmp_path / "cell")})
    assert measured.status == "ok"
    assert measured.found["notes"] == [note]
    assert not (tmp_path / "cell").exists()


def test_the_gate_judges_own_views_by_the_specification_s(measure):
    first, _ = measure(input="views")  # the fake's views are not the specification's either
    right, _ = measure("OwnViews", input="views")
    summary = {"implementation": "x", **right.found["parity_summary"]}
    losses = [measured.found["parity_summary"]["summary"]["loss"] for measured in (first, right)]
    assert losses[0] != losses[1]
    own, _ = measure("OwnViews", against=summary)
    assert own.status == "ok"
    assert own.found["parity"]["loss_error"] == 0
    assert own.found["learning"]["loss_curve"][0][1] != right.found["learning"]["loss_curve"][0][1]
    assert own.found["notes"][0].startswith("its views are its own")
    wrong, _ = measure("WrongWithOwnViews", against=summary)
    assert wrong.status == "wrong"


def test_the_gate_opens_for_the_same_figures_only(measure):
    first, _ = measure()
    kept = first.found["parity_summary"]
    assert kept["batch"] == 16
    summary = kept["summary"]
    assert parity.ABOVE_RELU[0] in summary["tensors"]
    other = {"implementation": "x", "batch": 16, "summary": summary | {"loss": summary["loss"] * 1.01}}
    measured, _ = measure(against=other)
    assert measured.status == "wrong"
    assert measured.found["parity"]["against"] == "x"
