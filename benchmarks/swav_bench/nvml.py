"""What NVIDIA's management library says of the GPU: the one file that knows it. Without either there is nothing.

NVML counts energy for the whole GPU, whoever uses it; that is why a measurement also says who else is there.
"""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

try:
    import pynvml
except ImportError:  # pragma: no cover - the tests' environment has it; GPU runs without it lack energy, nothing else
    pynvml = None

#: NVML updates its counters some ten times a second: shorter windows than this say little.
SHORTEST_WINDOW_S = 10.0


class Reading(NamedTuple):
    """The energy counter at a moment."""

    time_s: float
    joules: float


class Gpu:
    """The first GPU that this process may use."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def describe(self) -> dict[str, Any]:
        """Name, memory, driver and power limit, as a record has them."""
        limit = _ask(pynvml.nvmlDeviceGetPowerManagementLimit, self._handle)
        memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, self._handle)
        return {
            "name": _text(_ask(pynvml.nvmlDeviceGetName, self._handle)),
            "memory_bytes": int(memory.total) if memory else 0,
            "driver": _text(_ask(pynvml.nvmlSystemGetDriverVersion)),
            "power_limit_w": limit / 1000 if limit else None,
        }

    def energy(self) -> Reading | None:
        """The energy counter; None where the GPU has none."""
        millijoules = _ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, self._handle)
        return None if millijoules is None else Reading(time.perf_counter(), millijoules / 1000)

    def condition(self) -> dict[str, Any]:
        """Clock, temperature, why it is throttled, who else computes; as a record has them."""
        processes = _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, self._handle)
        return {
            "sm_clock_mhz": _ask(pynvml.nvmlDeviceGetClockInfo, self._handle, pynvml.NVML_CLOCK_SM),
            "temperature_c": _ask(pynvml.nvmlDeviceGetTemperature, self._handle, pynvml.NVML_TEMPERATURE_GPU),
            "throttle_reasons": _reasons(_ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, self._handle) or 0),
            "other_processes": None if processes is None else sum(item.pid != os.getpid() for item in processes),
        }

    def process_bytes(self) -> int | None:
        """GPU memory of this process; None where NVML does not tell (in containers it may see other process ids)."""
        for item in _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, self._handle) or []:
            if item.pid == os.getpid():
                return int(item.usedGpuMemory)
        return None


def first_gpu() -> Gpu | None:
    """The first GPU, or None where there is none or no NVML."""
    if pynvml is None:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    try:
        pynvml.nvmlInit()
        if visible.startswith(("GPU-", "MIG-")):
            return Gpu(pynvml.nvmlDeviceGetHandleByUUID(visible))
        return Gpu(pynvml.nvmlDeviceGetHandleByIndex(int(visible)))
    except (pynvml.NVMLError, ValueError):
        return None


def _ask(question: Any, *arguments: Any) -> Any:
    """The answer, or None where this GPU or driver cannot tell."""
    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "unknown")


def _reasons(bits: int) -> list[str]:
    prefix = "nvmlClocksEventReason"
    known = {name.removeprefix(prefix): getattr(pynvml, name) for name in dir(pynvml) if name.startswith(prefix)}
    skipped = ("None", "All", "GpuIdle")
    return sorted(name for name, bit in known.items() if name not in skipped and isinstance(bit, int) and bits & bit)
