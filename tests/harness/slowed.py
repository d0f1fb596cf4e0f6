"""PyTorch whose steps take longer by the share that SLOWED says: a slowdown that a comparison is to find.

    PYTHONPATH=tests/harness SLOWED=0.1 swav-bench run -i slowed:Torch ...

With 0, the default, it is the same program, so that two such runs are of the same thing.
"""

from __future__ import annotations

import os
import time

from swav_torch.implementation import TorchImplementation


class Torch(TorchImplementation):
    """The column, each step of which is waited for, and then a share of its time more."""

    def step(self, state, images, plan):
        started = time.perf_counter()
        state, metrics = super().step(state, images, plan)
        self.fence(state, metrics)
        time.sleep(float(os.environ.get("SLOWED", "0")) * (time.perf_counter() - started))
        return state, metrics
