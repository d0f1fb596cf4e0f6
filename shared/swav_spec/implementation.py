"""The specification as an implementation of its own contract: every test runs against it first."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from swav_spec import loss, optimizer, queue, sinkhorn, views
from swav_spec.config import Cropped, Execution
from swav_spec.contract import Part
from swav_spec.errors import require
from swav_spec.multicrop import CropPlan


class NumpyImplementation:
    """Maths and Views in NumPy float64."""

    fulfils: ClassVar[tuple[Part, ...]] = ("maths", "views")
    modes: ClassVar[tuple[str, ...]] = ("eager",)

    def __init__(self, execution: Execution) -> None:
        require(execution.device == "cpu", "device", execution.device, "cpu for numpy")
        require(execution.mode in ("default", *self.modes), "mode", execution.mode, "one of " + ", ".join(self.modes))
        self.execution = execution

    def describe(self) -> dict[str, Any]:
        return {
            "framework": "numpy",
            "version": np.__version__,
            "device": "cpu",
            "precision": "float64",
            "mode": "eager",
            "flags": {},
            "compiler": None,
        }

    def to_device(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    def to_host(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    def fence(self, *values: Any) -> None:
        """NumPy has finished when it returns."""

    def reset_peak(self) -> None:
        """NumPy's allocator does not count."""

    def peak_memory_bytes(self) -> None:
        return None

    def compilations(self) -> None:
        return None

    normalize_rows = staticmethod(optimizer.normalize_rows)
    sinkhorn = staticmethod(sinkhorn.sinkhorn)
    swapped_loss = staticmethod(loss.swapped_loss)
    queue_read = staticmethod(queue.queue_read)
    queue_push = staticmethod(queue.queue_push)
    larc_sgd = staticmethod(optimizer.larc_sgd)

    def views(self, images: np.ndarray, plan: CropPlan, config: Cropped) -> list[np.ndarray]:
        return views.views(images, plan, config)
