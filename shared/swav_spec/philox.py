"""Philox4x32-10: a counter-based random generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

Any number of any stream is had in O(1), so the crops of any sample of any epoch can be drawn alone.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counter: tuple[np.ndarray | int, ...], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Four uniform 32-bit numbers for each counter.

    Args:
        counter: four words, each an integer or an integer array < 2^32; they broadcast together.
        key: two words < 2^32.

    Returns:
        Four uint64 arrays of the broadcast shape, each value < 2^32.
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(word, dtype=np.uint64) for word in counter))
    k0, k1 = key
    for _ in range(ROUNDS):
        product0 = _MULTIPLIERS[0] * c0
        product1 = _MULTIPLIERS[1] * c2
        c0 = (product1 >> _HALF) ^ c1 ^ np.uint64(k0)
        c2 = (product0 >> _HALF) ^ c3 ^ np.uint64(k1)
        c1 = product1 & _LOW
        c3 = product0 & _LOW
        k0 = (k0 + _WEYL[0]) & 0xFFFFFFFF
        k1 = (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def uniform(words: np.ndarray) -> np.ndarray:
    """32-bit numbers as float64 in [0, 1): word / 2^32, exact."""
    return words * 2.0**-32


def below(words: np.ndarray, limit: np.ndarray | int) -> np.ndarray:
    """32-bit numbers as integers in 0..limit-1 by multiplication: floor(word * limit / 2^32); int64, limit < 2^31."""
    return ((words * np.asarray(limit, dtype=np.uint64)) >> _HALF).astype(np.int64)
