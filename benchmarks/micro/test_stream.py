"""Images a second and core that the stream decodes, from generated JPEGs of a photograph's size; no implementation.

pytest benchmarks/micro/test_stream.py
"""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from PIL import Image

from swav_data.canvas import Canvas
from swav_data.sources import open_source
from swav_data.stream import Stream

FILES, HEIGHT, WIDTH, QUALITY = 64, 375, 500, 90
BATCH, STEPS = 32, 8
WORKERS = (0, 1, 2)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """JPEGs of 500 x 375 pixels, ImageNet's usual size, with detail on several scales: some 55 kB each."""
    root = tmp_path_factory.mktemp("photographs")
    (root / "class").mkdir()
    random = np.random.default_rng(0)
    for number in range(FILES):
        pixels = np.zeros((HEIGHT, WIDTH, 3))
        for scale in (4, 8, 16, 64):
            coarse = random.normal(0, 12, (-(-HEIGHT // scale), -(-WIDTH // scale), 3))
            pixels += coarse.repeat(scale, axis=0).repeat(scale, axis=1)[:HEIGHT, :WIDTH]
        image = Image.fromarray(np.clip(128 + pixels, 0, 255).astype(np.uint8))
        image.save(root / "class" / f"{number:03}.jpg", quality=QUALITY)
    return root


@pytest.mark.parametrize("workers", WORKERS)
def test_stream(request, photographs, workers):
    images = open_source(photographs).train
    # Without an end, so that as much is decoded ahead when the clock stops as when it starts.
    with Stream(images, batch=BATCH, seed=0, steps=range(10**6), workers=workers, canvas=Canvas()) as stream:
        batches = iter(stream)
        for _ in range(1 + stream.prefetch):
            next(batches)
        started, used = time.perf_counter(), time.process_time()
        count = sum(len(batch.samples) for batch in itertools.islice(batches, STEPS))
        wall, here = time.perf_counter() - started, time.process_time() - used
    kilobytes = np.mean([path.stat().st_size for path in photographs.rglob("*.jpg")]) / 1e3
    of_cpu = (
        f"{count / here:.0f} a second of CPU time"
        if not workers
        else f"{1e3 * here / count:.2f} ms of CPU time an image in the consumer"
    )
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(
            f"\nstream, JPEG {WIDTH}x{HEIGHT} ({kilobytes:.0f} kB) to a shorter side of {Canvas().resize_short}, "
            f"{workers} workers: {count / wall:.0f} images/s, {count / wall / max(workers, 1):.0f} for each decoding "
            f"process; {of_cpu}"
        )
    assert count == BATCH * STEPS
