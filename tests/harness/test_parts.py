"""A step's parts alone, as measure asks for them: which there are, and that they leave the state as it is."""

from __future__ import annotations

import dataclasses

import numpy as np
from tests.harness.fake import WithMaths

from swav_bench import parts
from swav_bench.inputs import Resident
from swav_bench.one_batch import one_batch
from swav_data.sources import load
from swav_spec.config import Execution, Network, Optimizer
from swav_spec.network import initial_weights
from swav_spec.recipes import recipe, resolve

NETWORK = Network(block="conv", depths=(1,), widths=(4,), strides=(2,), stem="none", hidden=4, embedding=32)


class Whole(WithMaths):
    """Has all tensors of the network, as whoever updates them by LARC does."""

    def to_arrays(self, state):
        return {f"model/{name}": tensor for name, tensor in initial_weights(NETWORK, 0).items()}


def test_without_a_queue_and_with_larc_each_part_but_the_queue_is_timed(images):
    trainer, data, notes = Whole(Execution(precision="float64")), load(images).train, []
    chosen = dataclasses.replace(recipe("textures"), batch=4, queue_length=0, network=NETWORK, optimizer=Optimizer())
    config = resolve(chosen, samples=len(data), steps=4)
    state = trainer.init(config, initial_weights(NETWORK, 0))
    before = {name: value.copy() for name, value in state.params.items()}
    batch = one_batch(trainer, Resident(trainer, data, config, seed=0), config)
    encoder = {"encoder_steps_per_block": 3, "encoder_block_s": [0.5]}
    found = parts.measure(trainer, state, batch, encoder, 0.0, notes)
    names = [part["name"] for part in found["measured"]]
    assert names == ["views", "forward", "sinkhorn", "loss", "optimizer", "encoder"]
    assert notes == []
    assert found["measured"][-1] == {"name": "encoder", "calls_per_block": 3, "block_s": [0.5]}
    assert all(np.array_equal(state.params[name], value) for name, value in before.items())
