"""Small networks in converted files, for the tests of what uses them."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from swav_bench import weights
from swav_bench.weights import Weights
from swav_spec.network import BN_MOMENTUM, initial_weights
from swav_spec.recipes import NETWORKS
from swav_spec.testing.images import random_images
from swav_spec.testing.reference_network import Pass

SMALL = dataclasses.replace(NETWORKS["convnet4"], widths=(4, 6, 8, 8), hidden=16, embedding=8, prototypes=5)


@functools.cache
def small(seed=1, size=8, network=SMALL):
    """Weights of a small network, float32, none as it starts; running statistics are those of some images."""
    draw = np.random.default_rng(seed)
    tensors = initial_weights(network, seed)
    for name, tensor in tensors.items():
        if tensor.ndim == 1 and "running" not in name:
            tensors[name] = tensor + draw.normal(0, 0.1, tensor.shape)
    views = random_images(seed, 36, size, size)[4:] / 128 - 1
    for name, moved in Pass(network, tensors, [views], train=True).buffers.items():
        if moved.ndim:
            tensors[name] = (moved - (1 - BN_MOMENTUM) * tensors[name]) / BN_MOMENTUM
    narrow = {name: t.astype(np.float32) if t.dtype.kind == "f" else t for name, t in tensors.items()}
    return Weights(network, narrow, size, origin={"file": "small"})


def backbone(found):
    """The same without head and prototypes."""
    kept = {name: t for name, t in found.tensors.items() if not name.startswith(("projection_head", "prototypes"))}
    return dataclasses.replace(found, tensors=kept)


def write(folder, found=None, name="small.safetensors"):
    weights.write(folder / name, found or small())
    return folder / name
