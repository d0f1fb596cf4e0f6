"""Trains ResNet-18 with one implementation from a stream of photographs; prints one JSON line.

python -m tests.parity.stream_training IMPLEMENTATION SOURCE BATCH STEPS WORKERS
"""

from __future__ import annotations

import hashlib
import json
import sys
import time

import numpy as np

from swav_data.canvas import Canvas
from swav_data.sources import open_source
from swav_data.stream import Stream
from swav_spec import registry
from swav_spec.config import Config, CropGroup, Execution, Optimizer, Schedule
from swav_spec.multicrop import crop_plan
from swav_spec.network import initial_weights
from swav_spec.recipes import resnet18

SEED = 5
CROPS = (CropGroup(160, 2, (0.14, 1.0)), CropGroup(96, 4, (0.05, 0.14)))


def main():
    name, source, (batch, steps, workers) = sys.argv[1], sys.argv[2], map(int, sys.argv[3:6])
    network = resnet18(stem="imagenet", prototypes=64)
    schedule = Schedule(steps=steps, base_lr=0.1)
    config = Config(batch=batch, crops=CROPS, network=network, schedule=schedule, optimizer=Optimizer(kind="sgd"))
    implementation = registry.load(name, Execution("cpu", "float32"))
    state = implementation.init(config, initial_weights(network, SEED))
    images = open_source(source).train
    losses, seconds, pixels = [], [], hashlib.sha256()
    with Stream(images, batch=batch, seed=SEED, steps=range(steps), workers=workers, canvas=Canvas()) as stream:
        for made in stream:
            started = time.perf_counter()
            plan = crop_plan(
                config,
                seed=SEED,
                epoch=made.epoch,
                samples=made.samples,
                heights=made.heights,
                widths=made.widths,
            )
            pixels.update(made.images.tobytes())
            state, metrics = implementation.step(state, implementation.to_device(made.images), plan)
            implementation.fence(state, metrics)
            seconds.append(time.perf_counter() - started)
            losses.append(float(implementation.to_host(metrics["loss"])))
            assert np.all(implementation.to_host(metrics["finite"])), f"step {made.step}"
        waited = stream.waited_s
    found = {
        "losses": losses,
        "first_s": seconds[0],
        "step_s": float(np.median(seconds[1:])),
        "waited_s": waited,
        "step": int(state.step),
        "pixels": pixels.hexdigest(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
