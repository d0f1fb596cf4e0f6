"""What a measured process does, without the process: precisions lower than float32, and a GPU that is not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from swav_bench import nvml, parity
from swav_bench.measure import Measurement
from swav_bench.nvml import Reading


@pytest.fixture
def measure(cell, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    events = []

    class Reporter:
        def send(self, event, **values):
            events.append((event, values))

        def phase(self, name):
            events.append(("phase", name))

    def go(name="Fake", against=None, **changes):
        events.clear()
        job = {"cell": cell(name, **changes).to_job(), "parity": against, "raw_pixels": None}
        measurement = Measurement(job, Reporter())
        measurement.run()
        return measurement, events

    return go


@pytest.mark.parametrize("lower", ["tf32", "bfloat16"])
def test_a_lower_precision_passes_the_gate_in_float32_first(measure, lower):
    measured, events = measure(precision=lower)
    phases = [value for event, value in events if event == "phase"]
    assert phases.index("checking the first step in float32") < phases.index("importing the framework")
    assert measured.status == "ok"
    assert measured.found["environment"]["implementation"]["precision"] == lower
    summary = {"implementation": "x", "summary": measured.found["parity_summary"]}
    again, _ = measure(precision=lower, against=summary)
    assert again.found["parity"]["loss_error"] == 0
    assert again.status == "ok"


def test_a_low_precision_that_is_far_from_float32_is_wrong(measure):
    measured, _ = measure("WrongInBfloat16", precision="bfloat16")
    assert measured.status == "wrong"
    assert measured.reason.startswith("the first loss in bfloat16 is ")
    assert "timing" not in measured.found


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


def test_the_gate_opens_for_the_same_figures_only(measure):
    first, _ = measure()
    summary = first.found["parity_summary"]
    assert parity.ABOVE_RELU[0] in summary["tensors"]
    other = summary | {"loss": summary["loss"] * 1.01}
    measured, _ = measure(against={"implementation": "x", "summary": other})
    assert measured.status == "wrong"
    assert measured.found["parity"]["against"] == "x"
