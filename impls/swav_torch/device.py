"""Where tensors live, how precisely products are computed, and what the allocator and the compiler have done."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch._dynamo import config as dynamo
from torch._dynamo.utils import counters

from swav_spec.config import Execution
from swav_spec.errors import require

MODES = ("eager", "compile", "cudagraph")


class TorchDevice:
    """The device of an `Execution`, and PyTorch's switches that go with it.

    Raises:
        InvalidInput: there is no GPU here, or the precision or mode needs one.
    """

    #: Whether the process's switches allow TF32 now; None before they were first set.
    _tf32: ClassVar[bool | None] = None

    def __init__(self, execution: Execution) -> None:
        self.mode = MODES[0] if execution.mode == "default" else execution.mode
        on_gpu = execution.device == "gpu"
        require(not on_gpu or torch.cuda.is_available(), "device", execution.device, "cpu: torch finds no GPU here")
        require(self.mode in MODES, "mode", execution.mode, "one of " + ", ".join(MODES))
        require(on_gpu or self.mode != "cudagraph", "mode", self.mode, "eager or compile on a cpu")
        self.execution = execution
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self.dtype = torch.float64 if execution.precision == "float64" else torch.float32
        #: CUDA graphs captured so far.
        self.captures = 0
        self.activate()

    def activate(self) -> None:
        """Sets PyTorch's switches, which belong to the process, for what this implementation computes next."""
        tf32 = self.execution.precision == "tf32"
        if TorchDevice._tf32 is not tf32:
            _allow_tf32(allowed=tf32)
            TorchDevice._tf32 = tf32
        if self.execution.device == "gpu":
            torch.backends.cudnn.benchmark = True

    def describe(self) -> dict[str, Any]:
        on_gpu = self.execution.device == "gpu"
        flags = {
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "memory_format": "channels_last",
            "autocast": self.execution.precision == "bfloat16",
            "threads": torch.get_num_threads(),
        }
        if on_gpu:
            flags |= {
                "cudnn": torch.backends.cudnn.version(),
                "cudnn_conv_precision": torch.backends.cudnn.conv.fp32_precision,
                "cudnn_benchmark": torch.backends.cudnn.benchmark,
                "cuda": torch.version.cuda,
            }
        compilers = {"eager": None, "compile": "torch.compile, inductor", "cudagraph": "CUDA graphs of eager kernels"}
        return {
            "framework": "torch",
            "version": torch.__version__,
            "device": torch.cuda.get_device_name(self.device) if on_gpu else "cpu",
            "precision": self.execution.precision,
            "mode": self.mode,
            "flags": flags,
            "compiler": compilers[self.mode],
        }

    def to_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)

    def to_host(self, tensor: torch.Tensor) -> np.ndarray:
        tensor = tensor.detach()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()
        return np.array(tensor.cpu().numpy(), order="C")

    def send(self, array: np.ndarray) -> torch.Tensor:
        """An array that nobody writes to any more, on the device; the host does not wait for the copy."""
        tensor = torch.from_numpy(array)
        if self.execution.device == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def fence(self, *_values: torch.Tensor) -> None:
        if self.execution.device == "gpu":
            torch.cuda.synchronize(self.device)

    def reset_peak(self) -> None:
        if self.execution.device == "gpu":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_memory_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated(self.device) if self.execution.device == "gpu" else None

    def compile(self, function: Callable) -> Callable:
        """The function compiled as one graph, anew for every shape: an implementation is timed on shapes that stay."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's modules warn about each other when first imported
            importlib.import_module("torch._inductor.compile_fx")
        dynamo.recompile_limit = max(dynamo.recompile_limit, 64)
        return torch.compile(function, fullgraph=True, dynamic=False)

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
        return {"eager": None, "compile": counters["stats"]["unique_graphs"], "cudagraph": self.captures}[self.mode]


def _allow_tf32(*, allowed: bool) -> None:
    """Allows or forbids TF32 in matrix products and convolutions.

    The older setters come first because they keep both the older and the newer values in step: some releases'
    compilers read the older ones, and fail where the two disagree. Releases differ in whether the setters warn.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cudnn.rnn.fp32_precision = "tf32" if allowed else "ieee"
