"""Which images make which batch: a permutation for each epoch, from the seed and the epoch alone.

Any step of any run is had without the steps before it, so resuming changes nothing, and every framework
sees the same batches. The images that do not fill a last batch wait for the next epoch's permutation.
"""

from __future__ import annotations

import functools

import numpy as np

from swav_spec.errors import require
from swav_spec.philox import philox4x32

#: First counter word of these draws; crop plans use small ones, so that the two never share a random number.
_BLOCK = 0xFFFFFFFF


@functools.lru_cache(maxsize=4)
def epoch_order(samples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: samples sorted by 64 random bits each, ties by number.

    Args:
        samples: how many there are, in 1..2^32.
        seed: of the run, 0 <= seed < 2^64.
        epoch: 0 <= epoch < 2^32.

    Returns:
        [samples] int64, a permutation of 0..samples-1; read-only.

    Raises:
        InvalidInput: an argument is out of its range.
    """
    require(1 <= samples <= 2**32, "samples", samples, "in 1..2^32")
    require(0 <= seed < 2**64, "seed", seed, "in 0..2^64-1")
    require(0 <= epoch < 2**32, "epoch", epoch, "in 0..2^32-1")
    high, low, _, _ = philox4x32((_BLOCK, 0, np.arange(samples), epoch), (seed & 0xFFFFFFFF, seed >> 32))
    order = np.argsort(high << np.uint64(32) | low, kind="stable")
    order.flags.writeable = False
    return order


def steps_per_epoch(samples: int, batch: int) -> int:
    """Full batches in an epoch.

    Raises:
        InvalidInput: the batch is smaller than 1 or there are fewer samples than that.
    """
    require(1 <= batch <= samples, "batch", batch, f"in 1..{samples}, the number of images")
    return samples // batch


def batch_samples(samples: int, batch: int, seed: int, step: int) -> tuple[int, np.ndarray]:
    """The batch of a step of a run.

    Args:
        samples: images in the training set.
        batch: images per step over all ranks, in 1..samples.
        seed: of the run, 0 <= seed < 2^64.
        step: at least 0, counted from the start of the run.

    Returns:
        The epoch, and [batch] int64, the images' numbers (read-only). Both go on to swav_spec.multicrop.crop_plan.

    Raises:
        InvalidInput: an argument is out of its range.
    """
    require(step >= 0, "step", step, "at least 0")
    epoch, position = divmod(step, steps_per_epoch(samples, batch))
    return epoch, epoch_order(samples, seed, epoch)[position * batch : (position + 1) * batch]


def shard(samples: np.ndarray, rank: int, ranks: int) -> np.ndarray:
    """One rank's part of a batch, or of anything else: contiguous; the first ranks get one more where it is uneven.

    Args:
        samples: [B] or [B, ...]; B may be smaller than `ranks`, then some parts are empty.
        rank: 0 <= rank < ranks.
        ranks: at least 1.

    Raises:
        InvalidInput: there is no such rank.
    """
    require(ranks >= 1, "ranks", ranks, "at least 1")
    require(0 <= rank < ranks, "rank", rank, f"in 0..{ranks - 1}")
    size, larger = divmod(len(samples), ranks)
    start = rank * size + min(rank, larger)
    return samples[start : start + size + (rank < larger)]
