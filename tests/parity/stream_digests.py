"""Streams batches and prints "step SHA-256" of each: pixels, sizes, labels, numbers and epoch.

    python -m tests.parity.stream_digests SOURCE BATCH START STOP WORKERS

Waits for a line on standard input after each, so that whoever started it can kill it in the middle.
"""

from __future__ import annotations

import hashlib
import sys

import numpy as np

from swav_data.canvas import Canvas
from swav_data.sources import open_source
from swav_data.stream import Stream

SEED = 5
CANVAS = Canvas(resize_short=192, max_side=256)


def digest(batch):
    """SHA-256 of everything that a step takes from a batch."""
    found = hashlib.sha256()
    for array in (batch.images, batch.heights, batch.widths, batch.labels, batch.samples, np.array(batch.epoch)):
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def main():
    source, (batch, start, stop, workers) = sys.argv[1], map(int, sys.argv[2:6])
    images = open_source(source).train
    with Stream(
        images, batch=batch, seed=SEED, steps=range(start, stop), workers=workers, prefetch=3, canvas=CANVAS
    ) as stream:
        for made in stream:
            print(made.step, digest(made), flush=True)
            if not sys.stdin.readline():
                return


if __name__ == "__main__":
    main()
