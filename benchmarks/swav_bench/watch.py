"""Whether a run learns or has collapsed: what is looked at while it trains, and what is said.

SwAV collapses quietly. Where all images get the same codes the loss is ln K, and it stays there.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from swav_spec.config import Config

#: The loss is at ln K when its mean over WINDOW steps is within this share of it, and hardly moves: the means of the
#: window's halves differ by less than STILL of ln K. A healthy run comes from above and passes ln K on its way down.
MARGIN, STILL = 0.03, 0.01
#: Steps that the mean is taken over.
WINDOW = 20
#: A run is given this share of its steps to leave ln K, and at least its warm-up and the freeze of its prototypes.
GRACE = 0.1
#: Prototypes are dead when fewer than this share of those that a batch could use are any image's first choice.
DEAD = 0.1
#: Embeddings are the same when the total variance of unit embeddings, 1 - |mean|^2 in [0, 1], is below this. Healthy
#: runs go through a fiftieth early on, so it is the last sign of collapse, and a sure one.
VARIANCE = 0.001


class Alarm(NamedTuple):
    """Something that a person should know now.

    Attributes:
        kind: "loss", "prototypes" or "embeddings".
        sentence: the step, the figures, and what is known to help.
    """

    kind: str
    sentence: str


def embedding_variance(embeddings: np.ndarray) -> float:
    """Total variance of unit embeddings [N, D], 1 - |mean|^2: 0 where all are the same, 1 where they cancel out."""
    mean = np.asarray(embeddings, dtype=np.float64).mean(axis=0)
    return float(max(0.0, 1 - mean @ mean))


class Watch:
    """Looks at a run at every fence. An alarm is given once, and again only after all was well in between."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._losses: collections.deque[float] = collections.deque(maxlen=WINDOW)
        self.grace = grace(config)
        #: Kinds of alarm that hold at the last look.
        self.active: tuple[str, ...] = ()

    def look(self, step: int, losses: Sequence[float], *, prototypes_used: int, variance: float | None) -> list[Alarm]:
        """New alarms.

        Args:
            step: steps done.
            losses: of the steps since the last look.
            prototypes_used: of the last step (see Trainer.step).
            variance: total variance of the unit embeddings of some images (embedding_variance), None where not looked.
        """
        self._losses.extend(losses)
        if step < self.grace or len(self._losses) < WINDOW:
            return []
        found = [
            self._loss(step),
            self._prototypes(step, prototypes_used),
            self._embeddings(step, variance),
        ]
        alarms = [alarm for alarm in found if alarm is not None]
        new = [alarm for alarm in alarms if alarm.kind not in self.active]
        self.active = tuple(alarm.kind for alarm in alarms)
        return new

    def _loss(self, step: int) -> Alarm | None:
        losses, half = list(self._losses), WINDOW // 2
        before, after = sum(losses[:half]) / half, sum(losses[half:]) / half
        mean, ln_k = (before + after) / 2, math.log(self._config.network.prototypes)
        if not at_ln_k(mean, self._config) or abs(after - before) >= STILL * ln_k:
            return None
        return self._alarm(
            "loss",
            f"step {step}: the loss is {mean:.3f} over {WINDOW} steps and stays there, within {MARGIN:.0%} of "
            f"ln K = {ln_k:.3f}: images cannot be told apart by their codes",
        )

    def _prototypes(self, step: int, used: int) -> Alarm | None:
        config = self._config
        possible = min(config.network.prototypes, len(config.assigned) * config.batch)
        if used >= DEAD * possible:
            return None
        return self._alarm(
            "prototypes",
            f"step {step}: {used} of {config.network.prototypes} prototypes are any image's first choice, where a "
            f"batch could use {possible}: the others are dead",
        )

    def _embeddings(self, step: int, variance: float | None) -> Alarm | None:
        if variance is None:
            # Not looked at now: what was seen last still holds.
            return Alarm("embeddings", "") if "embeddings" in self.active else None
        if variance >= VARIANCE:
            return None
        return self._alarm(
            "embeddings",
            f"step {step}: the variance of the embeddings is {variance:.2g} of at most 1: they are all the same",
        )

    def _alarm(self, kind: str, sentence: str) -> Alarm:
        return Alarm(kind, f"{sentence}. {remedies(self._config)}")


def grace(config: Config) -> int:
    """Steps before anything is said: codes mean little while the rate warms up or the prototypes are frozen."""
    schedule = config.schedule
    return max(schedule.warmup_steps, config.freeze_steps, math.ceil(GRACE * schedule.steps), WINDOW)


def at_ln_k(loss: float, config: Config) -> bool:
    """Whether a loss is that of uniform codes and predictions, up to MARGIN."""
    ln_k = math.log(config.network.prototypes)
    return abs(loss - ln_k) <= MARGIN * ln_k


def remedies(config: Config) -> str:
    """What is known to help, with the run's own figures."""
    known = [f"a smaller epsilon (now {config.epsilon:g})", f"a longer freeze_steps (now {config.freeze_steps})"]
    if config.queue_rows:
        known.append(f"a smaller or later queue (now {config.queue_rows} rows from step {config.queue_start})")
    smallest = min(group.scale[0] for group in config.crops)
    known.append(f"softer crops and colours (now from {smallest:.0%} of an image, hue {config.augmentation.hue:g})")
    known.append(f"a smaller learning rate (now {config.schedule.base_lr:g})")
    return "Known to help: " + ", ".join(known)
