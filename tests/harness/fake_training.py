"""Fakes that break down in the middle of a training run. Children import them as `fake_training:...`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
from fake import PROTOTYPES, Fake


class KilledOnce(Fake):
    """Killed before its step number 7 is done; the file that FAKE_MARK names says that it has happened."""

    def at_step(self, done, metrics):
        mark = Path(os.environ["FAKE_MARK"])
        if done == 7 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return metrics


class Poisoned(Fake):
    """Weights become NaN in its step number 9, the last before a checkpoint, while loss and scores are still finite."""

    def step_on_views(self, state, views):
        state, metrics = super().step_on_views(state, views)
        if state.step == 9:
            state.params[PROTOTYPES] = np.full_like(state.params[PROTOTYPES], np.nan)
        return state, metrics
