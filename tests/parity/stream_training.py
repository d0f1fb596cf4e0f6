"""Trains ResNet-18 with one implementation from a stream of photographs; prints one JSON line.

python -m tests.parity.stream_training IMPLEMENTATION SOURCE BATCH STEPS WORKERS [DEVICE]
"""

from __future__ import annotations

import hashlib
import json
import sys
import time

import numpy as np

from swav_bench import inputs, training
from swav_data.sources import open_source
from swav_spec import registry
from swav_spec.config import Config, CropGroup, Execution, Optimizer, Schedule
from swav_spec.network import initial_weights
from swav_spec.recipes import resnet18

SEED = 5
CROPS = (CropGroup(160, 2, (0.14, 1.0)), CropGroup(96, 4, (0.05, 0.14)))


class Digested(inputs.Streamed):
    """Digests, in the order of the steps, every pixel and number that goes to the device."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.pixels, self.plans = hashlib.sha256(), hashlib.sha256()

    def sent(self, batch, plan):
        self.pixels.update(batch.images.tobytes())
        for group in plan.groups:
            for numbers in group:
                self.plans.update(np.ascontiguousarray(numbers))
        return super().sent(batch, plan)


def main():
    name, source, (batch, steps, workers) = sys.argv[1], sys.argv[2], map(int, sys.argv[3:6])
    device = (*sys.argv, "cpu")[6]
    network = resnet18(stem="imagenet", prototypes=64)
    schedule = Schedule(steps=steps, base_lr=0.1)
    config = Config(batch=batch, crops=CROPS, network=network, schedule=schedule, optimizer=Optimizer(kind="sgd"))
    implementation = registry.load(name, Execution(device, "float32"))
    weights = initial_weights(network, SEED)
    spans = []
    with Digested(implementation, open_source(source).train, config, seed=SEED, workers=workers) as feed:
        started = time.perf_counter()
        state = implementation.init(config, weights)
        state = training.train(implementation, state, feed, fences=[1, steps], observe=spans.append)
        seconds = time.perf_counter() - started
    found = {
        "losses": np.concatenate([span.losses for span in spans]).tolist(),
        "first_s": seconds - spans[1].wall_s,
        "step_s": spans[1].wall_s / (steps - 1),
        "waited_s": spans[1].waited_s,
        "step": int(state.step),
        "pixels": feed.pixels.hexdigest(),
        "plans": feed.plans.hexdigest(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
