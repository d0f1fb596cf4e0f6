"""Cells on a GPU that is not there: what children make of NVML's answers, and of a GPU that is lost in the middle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def gpu(monkeypatch):
    """Children find a GPU that answers so many times."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "fake_nvml") + os.pathsep + os.environ["PYTHONPATH"])
    return lambda answers: monkeypatch.setenv("FAKE_NVML", str(answers))


def test_a_gpu_s_facts_are_in_the_record(run, cell, gpu):
    gpu(100)
    (record,) = run(cell(device="gpu"))
    assert record["status"] == "ok", record["reason"]
    assert record["environment"]["gpus"] == [
        {"name": "NVIDIA Fake", "memory_bytes": 80 << 30, "driver": "580.1", "power_limit_w": 700.0}
    ]
    assert record["memory"]["nvml_process_bytes"] == 3 << 30
    assert record["energy"] is None
    (note,) = record["notes"]
    assert note.startswith("energy is left out: 0.")


def test_a_gpu_that_stops_answering_costs_the_energy_only(run, cell, gpu):
    gpu(1)
    (record,) = run(cell(device="gpu"))
    assert record["status"] == "ok"
    assert record["energy"] is None
    assert record["memory"]["nvml_process_bytes"] is None
    assert record["notes"] == ["energy is left out: the GPU stopped answering NVML while it was training"]


def test_a_gpu_that_is_lost_is_a_record_and_the_next_cell_runs(run, cell, gpu):
    gpu(1)
    lost, after = run(cell("LostGpu", device="gpu"), cell(device="gpu", seed=1))
    assert lost["status"] == "error"
    assert lost["reason"] == "while training: RuntimeError: CUDA error: the GPU has fallen off the bus"
    assert lost["timing"] is None
    assert lost["environment"]["gpus"][0]["name"] == "NVIDIA Fake"
    assert after["status"] == "ok"
