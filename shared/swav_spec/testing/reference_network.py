"""The network in NumPy float64, forward and backward: an oracle that shares no code with the frameworks.

Every layer returns its output and a function that takes the gradient of the output, adds the gradients of its
weights to a dictionary by their published names, and returns the gradient of its input. Arrays are
[N, channel, height, width]; it is slow, and meant for networks of a few channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from swav_spec.config import Network
from swav_spec.network import BN_EPSILON, BN_MOMENTUM, Convolution, convolutions

Weights = Mapping[str, np.ndarray]
Gradients = dict[str, np.ndarray]
Backward = Callable[[np.ndarray], np.ndarray]
Layer = tuple[np.ndarray, Backward]


class Layers:
    """A network's layers on its tensors, and what they leave behind.

    Attributes:
        weights: the state dict, float64.
        buffers: the BN buffers, updated once for each pass (train only).
        gradients: by parameter, filled by the layers' backward functions.
    """

    def __init__(self, network: Network, weights: Weights, *, train: bool) -> None:
        self.network, self.train = network, train
        self.weights = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
        self.buffers = {
            name: np.array(value) for name, value in weights.items() if "running_" in name or "num_" in name
        }
        self.gradients: Gradients = {}

    def backbone(self, x: np.ndarray) -> Layer:
        """Pooled features [N, F] of views [N, 3, side, side]."""
        layers = list(convolutions(self.network))
        backs: list[Backward] = []

        def through(layer: Layer) -> np.ndarray:
            backs.append(layer[1])
            return layer[0]

        if self.network.stem != "none":
            x = through(self._convolution(x, layers.pop(0)))
            x = through(relu(x))
            if self.network.stem == "imagenet":
                x = through(max_pool(x))
        while layers:
            prefix = layers[0].name.rpartition(".")[0]
            main = [conv for conv in layers if conv.name.rpartition(".")[0] == prefix]
            shortcut = [conv for conv in layers if conv.name == f"{prefix}.downsample.0"]
            layers = layers[len(main) + len(shortcut) :]
            x = through(self._block(x, main, shortcut))
        side = x.shape[2] * x.shape[3]

        def spread(gradient: np.ndarray) -> np.ndarray:
            return np.broadcast_to(gradient[:, :, None, None] / side, x.shape)

        return x.mean(axis=(2, 3)), chain([*backs, spread])

    def _block(self, x: np.ndarray, main: list[Convolution], shortcut: list[Convolution]) -> Layer:
        """Convolutions with ReLU in between, plus the shortcut unless the block is plain, and a last ReLU."""
        backs: list[Backward] = []
        out = x
        for number, conv in enumerate(main):
            if number:
                out, back = relu(out)
                backs.append(back)
            out, back = self._convolution(out, conv)
            backs.append(back)
        if self.network.block == "conv":
            out, last = relu(out)
            return out, chain([*backs, last])
        beside, back_beside = self._convolution(x, shortcut[0]) if shortcut else (x, _itself)
        out, last = relu(out + beside)

        def backward(gradient: np.ndarray) -> np.ndarray:
            gradient = last(gradient)
            return chain(backs)(gradient) + back_beside(gradient)

        return out, backward

    def _convolution(self, x: np.ndarray, conv: Convolution) -> Layer:
        name = f"{conv.name}.weight"
        out, back = convolve(x, self.weights[name], conv.stride)
        out, back_norm = self._batch_norm(out, conv.norm)

        def backward(gradient: np.ndarray) -> np.ndarray:
            into_x, into_weight = back(back_norm(gradient))
            self._add(name, into_weight)
            return into_x

        return out, backward

    def _batch_norm(self, x: np.ndarray, name: str) -> Layer:
        """Over all axes but the channel's; the running variance is the unbiased one (Ioffe & Szegedy 2015)."""
        axes = (0, *range(2, x.ndim))
        count = x.size // x.shape[1]
        scale, shift = (_channels(self.weights[f"{name}.{part}"], x) for part in ("weight", "bias"))
        if self.train:
            mean, variance = x.mean(axis=axes), x.var(axis=axes)
            self._track(f"{name}.running_mean", mean)
            self._track(f"{name}.running_var", variance * count / max(count - 1, 1))
            self.buffers[f"{name}.num_batches_tracked"] = self.buffers[f"{name}.num_batches_tracked"] + 1
        else:
            mean, variance = (self.weights[f"{name}.running_{part}"] for part in ("mean", "var"))
        inverse = _channels(1 / np.sqrt(variance + BN_EPSILON), x)
        normalised = (x - _channels(mean, x)) * inverse

        def backward(gradient: np.ndarray) -> np.ndarray:
            self._add(f"{name}.weight", (gradient * normalised).sum(axis=axes))
            self._add(f"{name}.bias", gradient.sum(axis=axes))
            inner = gradient * scale
            if self.train:
                along = (inner * normalised).mean(axis=axes, keepdims=True)
                inner = inner - inner.mean(axis=axes, keepdims=True) - normalised * along
            return inner * inverse

        return scale * normalised + shift, backward

    def _track(self, name: str, batch: np.ndarray) -> None:
        self.buffers[name] = (1 - BN_MOMENTUM) * self.buffers[name] + BN_MOMENTUM * batch

    def linear(self, x: np.ndarray, name: str) -> Layer:
        """Outputs x weight' + bias of the layer called `name`."""
        weight = self.weights[f"{name}.weight"]

        def backward(gradient: np.ndarray) -> np.ndarray:
            self._add(f"{name}.weight", gradient.T @ x)
            self._add(f"{name}.bias", gradient.sum(axis=0))
            return gradient @ weight

        return x @ weight.T + self.weights[f"{name}.bias"], backward

    def _add(self, name: str, gradient: np.ndarray) -> None:
        self.gradients[name] = self.gradients.get(name, 0.0) + gradient


class Pass(Layers):
    """One forward pass over all views of a step, and what it leaves behind.

    Attributes:
        features: [V*B, F], crop-major; embeddings: [V*B, D] of unit length; scores: [V*B, K].
        head: [V*B, D], the head's output before normalisation.
        buffers: the BN buffers after the pass, updated once for each resolution, in order (train only).
        gradients: filled by `backward`.
    """

    def __init__(self, network: Network, weights: Weights, views: Sequence[np.ndarray], *, train: bool) -> None:
        """`views`: one [C*B, side, side, 3] array per run of equal resolution."""
        super().__init__(network, weights, train=train)
        self._sizes = [len(group) for group in views]

        outputs = [self.backbone(np.moveaxis(np.asarray(group, dtype=np.float64), -1, 1)) for group in views]
        self.features = np.concatenate([features for features, _ in outputs])
        self._backbones = [backward for _, backward in outputs]
        hidden, self._first = self.linear(self.features, "projection_head.0")
        hidden, self._norm = self._batch_norm(hidden, "projection_head.1")
        hidden, self._relu = relu(hidden)
        self.head, self._second = self.linear(hidden, "projection_head.3")
        self.embeddings, self._unit = unit_rows(self.head)
        self.scores = self.embeddings @ self.weights["prototypes.weight"].T

    def backward(self, gradient: np.ndarray) -> Gradients:
        """Gradients of every parameter for a gradient of the scores [V*B, K]."""
        self.gradients = {"prototypes.weight": gradient.T @ self.embeddings}
        return self.backward_head(self._unit(gradient @ self.weights["prototypes.weight"]))

    def backward_head(self, gradient: np.ndarray) -> Gradients:
        """Gradients of backbone and head for a gradient of the head's output [V*B, D]."""
        for layer in (self._second, self._relu, self._norm, self._first):
            gradient = layer(gradient)
        ends = np.cumsum(self._sizes)[:-1]
        for backbone, part in zip(self._backbones, np.split(gradient, ends), strict=True):
            backbone(part)
        return self.gradients


def convolve(x: np.ndarray, weight: np.ndarray, stride: int) -> tuple[np.ndarray, Callable]:
    """Convolution [out, in, k, k] padded by k // 2 on every side; backward gives the gradients of x and of weight."""
    kernel = weight.shape[-1]
    pad = kernel // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(padded, (kernel, kernel), axis=(2, 3))[:, :, ::stride, ::stride]
    out = np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)

    def backward(gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        into_weight = np.einsum("nchwij,nohw->ocij", windows, gradient, optimize=True)
        into_windows = np.einsum("nohw,ocij->nchwij", gradient, weight, optimize=True)
        return _gather(into_windows, padded.shape, stride, pad), into_weight

    return out, backward


def max_pool(x: np.ndarray) -> Layer:
    """Largest of 3x3, stride 2, one row and column of padding that never wins."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    flat = windows.reshape(*windows.shape[:4], 9)
    winner = flat.argmax(axis=-1)

    def backward(gradient: np.ndarray) -> np.ndarray:
        into_windows = (np.arange(9) == winner[..., None]) * gradient[..., None]
        return _gather(into_windows.reshape(windows.shape), padded.shape, 2, 1)

    return flat.max(axis=-1), backward


def _gather(windows: np.ndarray, padded: tuple[int, ...], stride: int, pad: int) -> np.ndarray:
    """Sum of gradients of windows [N, C, h, w, k, k] over the pixels they came from, padding cut off."""
    total = np.zeros(padded)
    height, width, kernel = windows.shape[2], windows.shape[3], windows.shape[4]
    for i in range(kernel):
        for j in range(kernel):
            total[:, :, i : i + stride * height : stride, j : j + stride * width : stride] += windows[..., i, j]
    return total[:, :, pad : padded[2] - pad, pad : padded[3] - pad]


def relu(x: np.ndarray) -> Layer:
    """max(x, 0)."""
    return np.maximum(x, 0), lambda gradient: gradient * (x > 0)


def unit_rows(x: np.ndarray) -> Layer:
    """Rows over max(norm, 1e-12)."""
    norm = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    unit = x / norm

    def backward(gradient: np.ndarray) -> np.ndarray:
        return (gradient - unit * (gradient * unit).sum(axis=1, keepdims=True)) / norm

    return unit, backward


def chain(backs: Sequence[Backward]) -> Backward:
    """Backward functions of layers one after another, as one."""

    def backward(gradient: np.ndarray) -> np.ndarray:
        for back in reversed(backs):
            gradient = back(gradient)
        return gradient

    return backward


def _channels(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return values.reshape(1, -1, *[1] * (like.ndim - 2))


def _itself(array: np.ndarray) -> np.ndarray:
    return array
