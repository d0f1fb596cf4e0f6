"""Where arrays live: one CPU or GPU as JAX sees it, copies in and out, fences, memory, and the count of programs."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.extend.backend
import jaxlib
import numpy as np
from jax import Array

from swav_spec.config import Execution
from swav_spec.errors import InvalidInput, require

#: Environment variables that change what XLA computes or how it takes memory.
_VARIABLES = (
    "XLA_FLAGS",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
)


class JaxDevice:
    """Fulfils Device.

    Making one of precision float64 switches jax_enable_x64 on for the whole process, and it stays on; the other
    precisions name their dtypes throughout and compute the same with and without it.
    """

    def __init__(self, execution: Execution) -> None:
        try:
            self.device = jax.devices(execution.device)[0]
        except RuntimeError as error:
            message = f"device = {execution.device!r}: JAX finds none here ({str(error).splitlines()[0]})"
            raise InvalidInput(message) from error
        if execution.precision == "float64":
            jax.config.update("jax_enable_x64", val=True)
        self.execution = execution
        self._traces = 0

    def describe(self) -> dict[str, Any]:
        """Facts for a record. Flags are JAX's and XLA's own switches; unset environment variables are left out."""
        version = jax.extend.backend.get_backend(self.device.platform).platform_version.splitlines()[0]
        return {
            "framework": "jax",
            "version": jax.__version__,
            "device": self.device.device_kind,
            "precision": self.execution.precision,
            "mode": "jit",
            "flags": {
                "jax_enable_x64": bool(jax.config.jax_enable_x64),
                **{name: os.environ[name] for name in _VARIABLES if name in os.environ},
            },
            "compiler": f"XLA ({version}), jaxlib {jaxlib.__version__}",
        }

    def to_device(self, array: np.ndarray) -> Array:
        """A copy on the device, same dtype.

        Raises:
            InvalidInput: the dtype has 64 bits, which JAX would halve silently, and x64 is off.
        """
        array = np.asarray(array)
        wide = array.dtype.kind in "iuf" and array.dtype.itemsize == 8
        require(
            not wide or bool(jax.config.jax_enable_x64),
            "dtype",
            array.dtype.name,
            "of at most 32 bits, unless an implementation of precision float64 has been made",
        )
        # JAX reads the array after this returns: it gets one that the caller cannot change meanwhile.
        return jax.device_put(np.array(array), self.device, may_alias=False)

    def to_host(self, array: Array) -> np.ndarray:
        """A NumPy copy, same dtype (bfloat16 becomes float32)."""
        host = np.asarray(array)
        return np.array(host, dtype=np.float32 if host.dtype.name == "bfloat16" else host.dtype)

    def fence(self, *values: Any) -> None:
        """Returns when the given values, arrays anywhere inside them, and all that was dispatched earlier are computed.

        A device runs its programs in the order of their dispatch, so a last small one ends after all of them.
        """
        jax.block_until_ready([jax.tree.leaves(getattr(value, "arrays", value)) for value in values])
        jax.block_until_ready(jax.device_put(np.zeros((), np.int32), self.device) + 1)

    def reset_peak(self) -> None:
        """Does nothing: JAX has no way to restart its allocator's count, so the peak is that of the process so far."""

    def peak_memory_bytes(self) -> int | None:
        """Most bytes JAX's allocator has held since the process started; None where it does not count (CPUs)."""
        statistics = self.device.memory_stats()
        return None if statistics is None else statistics.get("peak_bytes_in_use")

    def trace(self, folder: Path) -> AbstractContextManager[None]:
        """A profile for TensorBoard or XProf, and a Chrome trace of it."""
        return jax.profiler.trace(folder)

    def compilations(self) -> int:
        """Programs traced so far by this implementation; each is compiled once."""
        return self._traces

    def jit(self, function: Callable, **options: Any) -> Callable:
        """jax.jit that counts: the body of a jitted function runs in Python only when it is traced."""

        @functools.wraps(function)
        def counted(*args, **kwargs):
            self._traces += 1
            return function(*args, **kwargs)

        return jax.jit(counted, **options)
