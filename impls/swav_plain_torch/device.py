"""The device of an `Execution`. Bytes stay on the host, where Pillow crops them; all else is on the device."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from swav_spec.config import Execution
from swav_spec.errors import require

MODES = ("eager",)


class PlainTorchDevice:
    """PyTorch on a CPU or the first GPU, eager.

    Raises:
        InvalidInput: there is no GPU here, or the mode is another.
    """

    def __init__(self, execution: Execution) -> None:
        on_gpu = execution.device == "gpu"
        require(not on_gpu or torch.cuda.is_available(), "device", execution.device, "cpu: torch finds no GPU here")
        require(execution.mode in ("default", *MODES), "mode", execution.mode, "one of " + ", ".join(MODES))
        self.execution = execution
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self.dtype = torch.float64 if execution.precision == "float64" else torch.float32
        self.activate()

    def activate(self) -> None:
        """Sets the process's switches for TF32 to what this implementation computes in."""
        tf32 = self.execution.precision == "tf32"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # releases differ in which of the two spellings they warn about
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = True

    def describe(self) -> dict[str, Any]:
        self.activate()
        on_gpu = self.execution.device == "gpu"
        return {
            "framework": "plain torch",
            "version": torch.__version__,
            "device": torch.cuda.get_device_name(self.device) if on_gpu else "cpu",
            "precision": self.execution.precision,
            "mode": MODES[0],
            "flags": {
                "float32_matmul_precision": torch.get_float32_matmul_precision(),
                "memory_format": "contiguous",
                "autocast": self.execution.precision == "bfloat16",
                "threads": torch.get_num_threads(),
                "views": f"Pillow {PIL.__version__}, on the host",
            },
            "compiler": None,
        }

    def to_device(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.array(array))
        return tensor if tensor.dtype == torch.uint8 else tensor.to(self.device)

    def to_host(self, tensor: torch.Tensor) -> np.ndarray:
        tensor = tensor.detach()
        return np.array((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy(), order="C")

    def fence(self, *_values: Any) -> None:
        if self.execution.device == "gpu":
            torch.cuda.synchronize(self.device)

    def reset_peak(self) -> None:
        if self.execution.device == "gpu":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_memory_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated(self.device) if self.execution.device == "gpu" else None

    @contextlib.contextmanager
    def trace(self, folder: Path) -> Iterator[None]:
        """A Chrome trace, for chrome://tracing or ui.perfetto.dev."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.execution.device == "gpu":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profiler:
            yield
        profiler.export_chrome_trace(str(folder / "trace.json.gz"))

    def compilations(self) -> int | None:
        return None
