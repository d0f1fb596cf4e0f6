"""Encoder and prototypes: a ResNet or plain convolutional backbone, a projection head, unit embeddings, scores.

Modules carry the names of the published state dict, so that a tensor's path in the module tree, joined by dots, is
its name. They are Linen's, not NNX's: a step is a pure function of named tensors, which is what `apply` is (and the
NNX of Flax 0.12.8 cannot be imported beside JAX 0.11). Inside, images are [N, height, width, channel] and kernels
[height, width, in, out] or [in, out]; `imported` and `exported` convert at the border. Every convolution pads
symmetrically by half its kernel, which "SAME" does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array, lax

from swav_spec.config import Network, Precision
from swav_spec.network import BN_EPSILON, BN_MOMENTUM, has_shortcut_convolution

PROTOTYPES = "prototypes.weight"


class Numbers(NamedTuple):
    """What numbers a precision computes with.

    Attributes:
        master: dtype of weights, statistics, embeddings, scores, codes and loss.
        compute: dtype of the backbone's and the head's products.
        products: how float32 products are taken; "HIGH" is TF32 on GPUs that have it and plain float32 elsewhere.
    """

    master: jnp.dtype
    compute: jnp.dtype
    products: lax.Precision

    @property
    def after_head(self) -> lax.Precision:
        """How products after the projection head are taken: bfloat16 ends there, and no TF32 reaches them then."""
        return self.products if self.compute == self.master else lax.Precision.HIGHEST


NUMBERS: Mapping[Precision, Numbers] = {
    "float64": Numbers(np.dtype("float64"), np.dtype("float64"), lax.Precision.HIGHEST),
    "float32": Numbers(np.dtype("float32"), np.dtype("float32"), lax.Precision.HIGHEST),
    "tf32": Numbers(np.dtype("float32"), np.dtype("float32"), lax.Precision.HIGH),
    "bfloat16": Numbers(np.dtype("float32"), jnp.dtype(jnp.bfloat16), lax.Precision.DEFAULT),
}


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with statistics in float32 or wider.

    Not Flax's own: the running variance here is the unbiased one, as in the published weights.
    """

    numbers: Numbers

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        shape, dtype = x.shape[-1:], self.numbers.master
        weight = self.param("weight", nn.initializers.ones, shape, dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, dtype)
        running_mean = self.variable("batch_stats", "running_mean", jnp.zeros, shape, dtype)
        running_var = self.variable("batch_stats", "running_var", jnp.ones, shape, dtype)

        wide = x.astype(dtype)
        if train:
            mean, variance = _moments(wide)
            count = wide.size // wide.shape[-1]
            unbiased = variance * (count / max(count - 1, 1))
            running_mean.value = (1 - BN_MOMENTUM) * running_mean.value + BN_MOMENTUM * mean
            running_var.value = (1 - BN_MOMENTUM) * running_var.value + BN_MOMENTUM * unbiased
        else:
            mean, variance = running_mean.value, running_var.value
        return ((wide - mean) * (weight * lax.rsqrt(variance + BN_EPSILON)) + bias).astype(x.dtype)


def _moments(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance over all axes but the last, in one pass over x.

    The squares are taken about the first sample's mean: E[x^2] - E[x]^2 would cancel where the mean is far from 0,
    and a second pass about the exact mean costs memory traffic, which bounds a ResNet's training.
    """
    axes = tuple(range(x.ndim - 1))
    centre = lax.stop_gradient(x[:1].mean(axis=axes))
    offset = x - centre
    mean = offset.mean(axis=axes)
    variance = jnp.maximum(jnp.square(offset).mean(axis=axes) - jnp.square(mean), 0)
    return centre + mean, variance


def _conv(numbers: Numbers, outputs: int, kernel: int, stride: int, name: str) -> nn.Conv:
    return nn.Conv(
        outputs,
        (kernel, kernel),
        stride,
        padding=kernel // 2,
        use_bias=False,
        dtype=numbers.compute,
        param_dtype=numbers.master,
        precision=numbers.products,
        name=name,
    )


class Shortcut(nn.Module):
    """A 1x1 convolution and its normalisation, where a block changes the shape."""

    outputs: int
    stride: int
    numbers: Numbers

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = _conv(self.numbers, self.outputs, 1, self.stride, "0")(x)
        return BatchNorm(self.numbers, name="1")(x, train=train)


class Block(nn.Module):
    """Convolutions, each with its normalisation, and a shortcut around them; "conv" is one of them without shortcut."""

    network: Network
    width: int
    stride: int
    numbers: Numbers

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        width, stride, outputs = self.width, self.stride, self.width * self.network.expansion
        plan = {
            "bottleneck": [(width, 1, 1), (width, 3, stride), (outputs, 1, 1)],
            "basic": [(width, 3, stride), (width, 3, 1)],
            "conv": [(width, 3, stride)],
        }[self.network.block]
        y = x
        for number, (channels, kernel, step) in enumerate(plan, start=1):
            y = _conv(self.numbers, channels, kernel, step, f"conv{number}")(y)
            y = BatchNorm(self.numbers, name=f"bn{number}")(y, train=train)
            if number < len(plan):
                y = nn.relu(y)
        if self.network.block == "conv":
            return nn.relu(y)
        if has_shortcut_convolution(self.network, x.shape[-1], width, stride):
            x = Shortcut(outputs, stride, self.numbers, name="downsample")(x, train=train)
        return nn.relu(y + x)


class Stage(nn.Module):
    """Blocks of one width; the first may have a stride."""

    network: Network
    index: int
    numbers: Numbers

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        for block in range(self.network.depths[self.index]):
            stride = self.network.strides[self.index] if block == 0 else 1
            x = Block(self.network, self.network.widths[self.index], stride, self.numbers, name=str(block))(
                x, train=train
            )
        return x


class ProjectionHead(nn.Module):
    """Linear, normalisation, ReLU, linear."""

    network: Network
    numbers: Numbers

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = self.linear(self.network.hidden, "0")(x)
        x = nn.relu(BatchNorm(self.numbers, name="1")(x, train=train))
        return self.linear(self.network.embedding, "3")(x)

    def linear(self, units: int, name: str) -> nn.Dense:
        compute, products = self.numbers.compute, self.numbers.products
        return nn.Dense(units, dtype=compute, param_dtype=self.numbers.master, precision=products, name=name)


class Encoder(nn.Module):
    """Backbone and projection head: [N, h, w, 3] per resolution to pooled features and projections."""

    network: Network
    numbers: Numbers

    @nn.compact
    def __call__(self, views: Sequence[Array], *, train: bool) -> tuple[Array, Array]:
        """Backbone once per resolution, so that its statistics are the group's; head once over all views."""
        backbone = _backbone(self.network, self.numbers, train=train)
        features = jnp.concatenate([backbone(group) for group in views])
        return features, ProjectionHead(self.network, self.numbers, name="projection_head")(features, train=train)


class Backbone(nn.Module):
    """The encoder without its head: [N, h, w, 3] of one resolution to pooled features [N, F]."""

    network: Network
    numbers: Numbers

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        return _backbone(self.network, self.numbers, train=train)(images)


def _backbone(network: Network, numbers: Numbers, *, train: bool) -> Callable[[Array], Array]:
    """The backbone as a function; its layers become those of the module in whose compact method this is called."""
    if network.stem != "none":
        kernel, stride = (7, 2) if network.stem == "imagenet" else (3, 1)
        conv1 = _conv(numbers, network.widths[0], kernel, stride, "conv1")
        bn1 = BatchNorm(numbers, name="bn1")
    stages = [Stage(network, index, numbers, name=f"layer{index + 1}") for index in range(len(network.depths))]

    def backbone(images: Array) -> Array:
        x = images.astype(numbers.compute)
        if network.stem != "none":
            x = nn.relu(bn1(conv1(x), train=train))
        if network.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage in stages:
            x = stage(x, train=train)
        return x.mean(axis=(1, 2))

    return backbone


def encode(
    network: Network,
    numbers: Numbers,
    params: Mapping[str, Array],
    statistics: Mapping[str, Array],
    views: Sequence[Array],
    *,
    train: bool,
) -> tuple[tuple[Array, Array], dict[str, Array]]:
    """The encoder as a pure function of its tensors, for one array of views per resolution.

    Returns:
        (features [V*B, F], projections [V*B, D]), and the new running statistics (the old ones unless `train`).
    """
    encoder = {name: tensor for name, tensor in params.items() if name != PROTOTYPES}
    variables = {"params": _tree(encoder), "batch_stats": _tree(statistics)}
    outputs, new = Encoder(network, numbers).apply(variables, views, train=train, mutable=["batch_stats"])
    return outputs, flatten_dict(new["batch_stats"], sep=".")


def pooled_features(
    network: Network,
    numbers: Numbers,
    params: Mapping[str, Array],
    statistics: Mapping[str, Array],
    images: Array,
    *,
    train: bool,
) -> tuple[Array, dict[str, Array]]:
    """The backbone alone as a pure function of its tensors: [N, F], and the new running statistics."""
    variables = {"params": _tree(params), "batch_stats": _tree(statistics)}
    features, new = Backbone(network, numbers).apply(variables, images, train=train, mutable=["batch_stats"])
    return features, flatten_dict(new["batch_stats"], sep=".")


def _tree(tensors: Mapping[str, Array]) -> dict[str, Any]:
    """Tensors by published name, nested and named as Linen does: layer1.0.conv1.weight is layer1, 0, conv1, kernel."""
    paths = {tuple(name.split(".")): tensor for name, tensor in tensors.items()}
    return unflatten_dict(
        {(*path[:-1], "kernel") if tensor.ndim > 1 else path: tensor for path, tensor in paths.items()}
    )


def prototype_scores(embeddings: Array, prototypes: Array, numbers: Numbers) -> Array:
    """[..., D] embeddings and [K, D] prototypes to their cosines [..., K]."""
    return jnp.einsum("...d,kd->...k", embeddings, prototypes, precision=numbers.after_head)


def imported(name: str, array: np.ndarray) -> np.ndarray:
    """A published tensor in this column's layout: OIHW to HWIO, (out, in) to (in, out); prototypes stay [K, D]."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 and name != PROTOTYPES else array


def exported(name: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `imported`."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T if array.ndim == 2 and name != PROTOTYPES else array
