"""The network as data: names, shapes and initial values of every tensor, as in the published state dicts.

A column builds its own modules from `Network`; this file says what their tensors are called, in which order
they come, how large they are and how they start, and how much arithmetic a forward pass takes.

Layouts are the published ones: convolutions [out, in, height, width], linear layers [out, in], prototypes
[K, D]. Strides sit in a block's 3x3 convolution (the first one of a basic block); every convolution pads
symmetrically by half its kernel; batch normalisation has momentum .1, epsilon 1e-5 and keeps the unbiased variance.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from swav_spec.config import Config, Network

BN_MOMENTUM = 0.1  # new = .9 old + .1 batch
BN_EPSILON = 1e-5
BN_SUFFIXES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class Convolution(NamedTuple):
    """A convolution without bias, followed by batch normalisation; `prefix` + "conv1" pairs with "bn1"."""

    name: str
    norm: str
    inputs: int
    outputs: int
    kernel: int
    stride: int
    #: Divisor of the image's side at which this convolution's output lies, the strides before it included.
    reduction: int


def convolutions(network: Network) -> Iterator[Convolution]:
    """All convolutions of the backbone, in state-dict order."""
    channels, reduction = 3, 1
    if network.stem != "none":
        kernel, stride = (7, 2) if network.stem == "imagenet" else (3, 1)
        reduction *= stride
        channels = network.widths[0]
        yield Convolution("conv1", "bn1", 3, channels, kernel, stride, reduction)
        if network.stem == "imagenet":
            reduction *= 2  # max-pool 3x3, stride 2, padding 1
    for stage, (depth, width, stage_stride) in enumerate(
        zip(network.depths, network.widths, network.strides, strict=True), start=1
    ):
        for index in range(depth):
            stride = stage_stride if index == 0 else 1
            prefix = f"layer{stage}.{index}"
            before, reduction = reduction, reduction * stride
            outputs = width * network.expansion
            for number, (inner, outer, kernel, step) in enumerate(
                _block(network.block, channels, width, outputs, stride), start=1
            ):
                at = before if number == 1 and network.block == "bottleneck" else reduction
                yield Convolution(f"{prefix}.conv{number}", f"{prefix}.bn{number}", inner, outer, kernel, step, at)
            if has_shortcut_convolution(network, channels, width, stride):
                name = f"{prefix}.downsample"
                yield Convolution(f"{name}.0", f"{name}.1", channels, outputs, 1, stride, reduction)
            channels = outputs


def has_shortcut_convolution(network: Network, channels: int, width: int, stride: int) -> bool:
    """Whether a block's shortcut is a 1x1 convolution with batch normalisation, rather than the identity."""
    return network.block != "conv" and (stride != 1 or channels != width * network.expansion)


def _block(kind: str, channels: int, width: int, outputs: int, stride: int) -> list[tuple[int, int, int, int]]:
    """(inputs, outputs, kernel, stride) of a block's convolutions on its main path."""
    if kind == "bottleneck":
        return [(channels, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
    if kind == "basic":
        return [(channels, width, 3, stride), (width, width, 3, 1)]
    return [(channels, width, 3, stride)]


def tensor_shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the state dict, parameters and BN buffers, in its order.

    The order is the published one: in a block, each convolution before its normalisation, the shortcut last;
    then the head and the prototypes.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for conv in convolutions(network):
        shapes[f"{conv.name}.weight"] = (conv.outputs, conv.inputs, conv.kernel, conv.kernel)
        shapes |= _norm_shapes(conv.norm, conv.outputs)
    shapes["projection_head.0.weight"] = (network.hidden, network.features)
    shapes["projection_head.0.bias"] = (network.hidden,)
    shapes |= _norm_shapes("projection_head.1", network.hidden)
    shapes["projection_head.3.weight"] = (network.embedding, network.hidden)
    shapes["projection_head.3.bias"] = (network.embedding,)
    shapes["prototypes.weight"] = (network.prototypes, network.embedding)
    return shapes


def _norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{suffix}": () if suffix == BN_SUFFIXES[-1] else (channels,) for suffix in BN_SUFFIXES}


def is_buffer(name: str) -> bool:
    """Whether a tensor is BN bookkeeping (running statistics, batch count) rather than a trained parameter."""
    return name.rsplit(".", 1)[-1] in BN_SUFFIXES[2:]


def parameter_names(network: Network) -> list[str]:
    """Names of the trained tensors, in state-dict order."""
    return [name for name in tensor_shapes(network) if not is_buffer(name)]


def count_parameters(network: Network) -> int:
    """Trained numbers in all, head and prototypes included."""
    return sum(math.prod(shape) for name, shape in tensor_shapes(network).items() if not is_buffer(name))


def initial_weights(network: Network, seed: int) -> dict[str, np.ndarray]:
    """Every tensor of the state dict at the start of training; float64 (batch counts int64).

    Each tensor has a generator of its own, from the seed and its name, so that no framework's order of
    building matters. Convolutions N(0, 2 / (out kernel^2)); linear layers and prototypes uniform in
    +- 1/sqrt(in), weights and biases; normalisation 1 and 0, running statistics 0 and 1.
    """
    shapes = tensor_shapes(network)
    values: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        kind = name.rsplit(".", 1)[-1]
        if kind == "num_batches_tracked":
            values[name] = np.zeros((), dtype=np.int64)
        elif len(shape) == 1 and name.rsplit(".", 1)[0] + ".running_mean" in shapes:
            values[name] = np.full(shape, 1.0 if kind in ("weight", "running_var") else 0.0)
        elif len(shape) == 4:
            out, _, height, width = shape
            values[name] = named_generator(seed, name).normal(0.0, math.sqrt(2 / (out * height * width)), shape)
        else:
            weight = shapes[name.rsplit(".", 1)[0] + ".weight"]
            limit = 1 / math.sqrt(weight[1])
            values[name] = named_generator(seed, name).uniform(-limit, limit, shape)
    return values


def named_generator(seed: int, name: str) -> np.random.Generator:
    """A tensor's own random numbers, from the seed and its name."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def forward_macs(network: Network, side: int) -> int:
    """Multiply-adds of one forward pass of one view of side x side pixels: backbone, head and prototypes.

    Counts convolutions and linear layers only, which is what chips' peak rates are quoted for.
    """
    macs = 0
    for conv in convolutions(network):
        out_side = -(-side // conv.reduction)
        macs += conv.outputs * conv.inputs * conv.kernel**2 * out_side**2
    head = network.features * network.hidden + network.hidden * network.embedding
    return macs + head + network.embedding * network.prototypes


def step_flops(config: Config) -> int:
    """Model FLOPs of one training step: 2 per multiply-add, forward plus twice as much backward, all views.

    The usual convention (Chinchilla, MLPerf); Sinkhorn, crops and the optimiser are not model FLOPs.
    """
    per_image = sum(forward_macs(config.network, size) for size in config.view_sizes)
    return 2 * 3 * per_image * config.batch
