"""Energy and memory by NVML, against a library of the same interface that no GPU stands behind."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from swav_bench import nvml


class NVMLError(Exception):
    pass


@pytest.fixture
def library(monkeypatch):
    def refuse(*arguments):
        raise NVMLError("Not Supported")

    processes = [SimpleNamespace(pid=1, usedGpuMemory=1), SimpleNamespace(pid=os.getpid(), usedGpuMemory=3 << 30)]
    fake = SimpleNamespace(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=1,
        NVML_TEMPERATURE_GPU=0,
        nvmlClocksEventReasonNone=0,
        nvmlClocksEventReasonGpuIdle=1,
        nvmlClocksEventReasonSwPowerCap=4,
        nvmlClocksEventReasonHwSlowdown=8,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: f"gpu {index}",
        nvmlDeviceGetHandleByUUID=lambda name: f"gpu {name}",
        nvmlDeviceGetName=lambda handle: handle.encode(),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=80 << 30),
        nvmlSystemGetDriverVersion=lambda: "580.1",
        nvmlDeviceGetPowerManagementLimit=lambda handle: 700_000,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 5_000,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: processes,
        nvmlDeviceGetClockInfo=lambda handle, kind: 1980,
        nvmlDeviceGetTemperature=lambda handle, kind: 51,
        nvmlDeviceGetCurrentClocksEventReasons=lambda handle: 5,
        refuse=refuse,
    )
    monkeypatch.setattr(nvml, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


def test_a_gpu_says_what_it_is_and_how_it_is(library):
    gpu = nvml.first_gpu()
    assert gpu.describe() == {"name": "gpu 0", "memory_bytes": 80 << 30, "driver": "580.1", "power_limit_w": 700}
    assert gpu.energy().joules == 5
    assert gpu.process_bytes() == 3 << 30
    assert gpu.condition() == {
        "sm_clock_mhz": 1980,
        "temperature_c": 51,
        "throttle_reasons": ["SwPowerCap"],
        "other_processes": 1,
    }


@pytest.mark.parametrize(("visible", "name"), [("3,1", "gpu 3"), ("GPU-abc", "gpu GPU-abc")])
def test_the_first_visible_gpu_counts(library, monkeypatch, visible, name):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert nvml.first_gpu().describe()["name"] == name


def test_what_a_gpu_does_not_tell_is_null(library):
    for question in list(vars(library)):
        if question.startswith("nvmlDeviceGet") and "Handle" not in question:
            setattr(library, question, library.refuse)
    gpu = nvml.first_gpu()
    assert gpu.energy() is None
    assert gpu.process_bytes() is None
    assert gpu.condition()["throttle_reasons"] == []
    assert gpu.describe()["power_limit_w"] is None


def test_no_library_no_driver_and_no_gpu_are_none(library, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert nvml.first_gpu() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    library.nvmlInit = library.refuse
    assert nvml.first_gpu() is None
    monkeypatch.setattr(nvml, "pynvml", None)
    assert nvml.first_gpu() is None
