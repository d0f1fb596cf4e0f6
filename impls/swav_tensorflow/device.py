"""Where tensors live and what computes on them: placement, precision switches, fences, memory."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from swav_spec.config import Execution
from swav_spec.errors import require

MODES = ("graph", "xla")


class TensorFlowDevice:
    """The first CPU or GPU, in one precision and mode (contract.Device).

    TF32 is one switch for the whole process: the implementation made last has set it. Memory grows on demand, so
    that peaks are what was used and not what was reserved.
    """

    execution: Execution

    def __init__(self, execution: Execution) -> None:
        allowed = ("default", *MODES)
        require(execution.mode in allowed, "mode", execution.mode, "one of " + ", ".join(allowed) + " for tensorflow")
        gpus = tf.config.list_physical_devices("GPU")
        require(
            execution.device == "cpu" or bool(gpus), "device", execution.device, "cpu: TensorFlow finds no GPU here"
        )
        for gpu in gpus:
            if not tf.config.experimental.get_memory_growth(gpu):
                tf.config.experimental.set_memory_growth(gpu, enable=True)
        tf.config.experimental.enable_tensor_float_32_execution(execution.precision == "tf32")
        self.execution = execution
        self.mode = MODES[0] if execution.mode == "default" else execution.mode
        self.device_name = f"/{execution.device.upper()}:0"
        self.traces = 0

    @property
    def dtype(self) -> tf.DType:
        """Of variables, views, scores and everything after the head."""
        return tf.float64 if self.execution.precision == "float64" else tf.float32

    def describe(self) -> dict[str, Any]:
        """Facts for a record (contract.Device.describe)."""
        name = "cpu"
        if self.execution.device == "gpu":
            gpu = tf.config.list_physical_devices("GPU")[0]
            name = tf.config.experimental.get_device_details(gpu).get("device_name", "gpu")
        build = tf.sysconfig.get_build_info()
        return {
            "framework": "tensorflow",
            "version": tf.__version__,
            "device": name,
            "precision": self.execution.precision,
            "mode": self.mode,
            "flags": {
                "keras": keras.__version__,
                "tensor_float_32": tf.config.experimental.tensor_float_32_execution_enabled(),
                "jit_compile": self.mode == "xla",
                "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
                "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
                "cuda": build.get("cuda_version"),
                "cudnn": build.get("cudnn_version"),
            },
            "compiler": "xla" if self.mode == "xla" else None,
        }

    def to_device(self, array: np.ndarray) -> tf.Tensor:
        """A copy on the device, same dtype."""
        with tf.device(self.device_name):
            return tf.constant(array)

    def to_host(self, array: tf.Tensor) -> np.ndarray:
        """A NumPy copy, same dtype; bfloat16 becomes float32."""
        array = tf.convert_to_tensor(array)
        return np.array((tf.cast(array, tf.float32) if array.dtype == tf.bfloat16 else array).numpy())

    def fence(self, *values: Any) -> None:  # noqa: ARG002 - all streams are waited for, so these values too
        """Returns when all that was asked of the devices has been computed, the given values included."""
        tf.test.experimental.sync_devices()

    def reset_peak(self) -> None:
        """Starts a new count for `peak_memory_bytes`, on GPUs."""
        if self.execution.device == "gpu":
            tf.config.experimental.reset_memory_stats("GPU:0")

    def peak_memory_bytes(self) -> int | None:
        """Most bytes TensorFlow's allocator has held since `reset_peak`; None on CPUs, where it does not tell."""
        if self.execution.device == "cpu":
            return None
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]

    def trace(self, folder: Path) -> AbstractContextManager[None]:
        """A profile for TensorBoard or XProf (contract.Tracing)."""
        return tf.profiler.experimental.Profile(str(folder))

    def compilations(self) -> int:
        """Functions traced so far; in the mode "xla" each trace is compiled once."""
        return self.traces

    def compiled(self, function):
        """`function` as a tf.function in the mode of this device, its traces counted."""

        @functools.wraps(function)
        def traced(*arguments):
            self.traces += 1
            return function(*arguments)

        # No branch or loop in these functions depends on a tensor but through tf.cond, so AutoGraph has nothing to do.
        return tf.function(traced, jit_compile=self.mode == "xla", autograph=False)
