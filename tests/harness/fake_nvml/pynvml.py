"""NVIDIA's management library as children see it where FAKE_NVML is set: one GPU, which may fall off the bus.

FAKE_NVML is how many times the energy counter answers; after that every question fails.
"""
# ruff: noqa: N802, N816, PLW0603 - names and global state are the library's

from __future__ import annotations

import os
import time
from types import SimpleNamespace

NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0
nvmlClocksEventReasonSwPowerCap = 4
_left = int(os.environ["FAKE_NVML"])


class NVMLError(Exception):
    pass


def _answer(value):
    def ask(*_):
        if _left < 0:
            raise NVMLError("GPU is lost")
        return value

    return ask


def nvmlDeviceGetTotalEnergyConsumption(handle):
    global _left
    _left -= 1
    return _answer(int(500e3 * time.time()))()


nvmlInit = _answer(None)
nvmlDeviceGetHandleByIndex = _answer("gpu")
nvmlDeviceGetName = _answer("NVIDIA Fake")
nvmlDeviceGetMemoryInfo = _answer(SimpleNamespace(total=80 << 30))
nvmlSystemGetDriverVersion = _answer("580.1")
nvmlDeviceGetPowerManagementLimit = _answer(700_000)
nvmlDeviceGetComputeRunningProcesses = _answer([SimpleNamespace(pid=os.getpid(), usedGpuMemory=3 << 30)])
nvmlDeviceGetClockInfo = _answer(1980)
nvmlDeviceGetTemperature = _answer(51)
nvmlDeviceGetCurrentClocksEventReasons = _answer(4)
