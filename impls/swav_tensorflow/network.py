"""The network: a residual or plain convolutional backbone, the projection head and the prototypes, as Keras layers.

Layers work on [N, height, width, channel] and keep kernels as TensorFlow likes them, [height, width, in, out] and
[in, out]; `SwAV.tensors` maps the published names to them, and `to_published` / `from_published` convert at the
border. Every layer takes its dtype policy when it is made; the global policy is never touched, so that models of
several precisions live side by side.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from swav_spec.config import Network, Precision
from swav_spec.errors import require
from swav_spec.network import BN_EPSILON, BN_MOMENTUM, convolutions, is_buffer, tensor_shapes
from swav_tensorflow.optimizer import normalize_rows

require(keras.backend.backend() == "tensorflow", "Keras backend", keras.backend.backend(), "tensorflow")

#: Dtype policy of backbone and head; what follows the head computes in the variables' dtype.
POLICIES = {"float64": "float64", "float32": "float32", "tf32": "float32", "bfloat16": "mixed_bfloat16"}


class Convolution(keras.layers.Layer):
    """A convolution without bias, zero-padded by half its kernel on every side.

    keras.layers.Conv2D offers "same", which pads a stride of 2 on the far sides only.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, **options):
        super().__init__(**options)
        self.stride = stride
        self.padding = [[0, 0], [kernel // 2] * 2, [kernel // 2] * 2, [0, 0]]
        self.kernel = self.add_weight(name="kernel", shape=(kernel, kernel, inputs, outputs), initializer="zeros")
        self.built = True

    def call(self, images):
        return tf.nn.conv2d(images, self.kernel, strides=self.stride, padding=self.padding)


class BatchNormalization(keras.layers.Layer):
    """Batch normalisation whose running variance is the unbiased one, which Keras' own layer does not promise.

    running = .9 running + .1 batch. The batch itself is normalised with its biased variance. Statistics are
    float32 or wider; in bfloat16 only input and output are narrow.
    """

    def __init__(self, channels: int, **options):
        super().__init__(**options)
        wide = {"shape": (channels,), "autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer="ones", **wide)
        self.beta = self.add_weight(name="beta", initializer="zeros", **wide)
        self.moving_mean = self.add_weight(name="moving_mean", initializer="zeros", trainable=False, **wide)
        self.moving_variance = self.add_weight(name="moving_variance", initializer="ones", trainable=False, **wide)
        self.batches = self.add_weight(
            name="batches", shape=(), dtype="int64", initializer="zeros", trainable=False, autocast=False
        )
        self.built = True

    def call(self, inputs, training=False, track=False):
        """Normalises [..., channels]: with the batch's statistics if `training`, which are recorded if `track`."""
        if not training:
            return self._normalize(inputs, self.moving_mean.value, self.moving_variance.value)
        if inputs.dtype == tf.float64:
            mean, variance = tf.nn.moments(inputs, axes=list(range(inputs.shape.rank - 1)))
            samples = inputs.shape.num_elements() // inputs.shape[-1]
            outputs, unbiased = self._normalize(inputs, mean, variance), variance * (samples / max(samples - 1, 1))
        else:
            outputs, mean, unbiased = self._fused(inputs)
        if track:
            self.moving_mean.assign((1 - BN_MOMENTUM) * self.moving_mean.value + BN_MOMENTUM * mean)
            self.moving_variance.assign((1 - BN_MOMENTUM) * self.moving_variance.value + BN_MOMENTUM * unbiased)
            self.batches.assign(self.batches.value + 1)
        return outputs

    def _normalize(self, inputs, mean, variance):
        scale = tf.math.rsqrt(variance + BN_EPSILON) * self.gamma.value
        return tf.cast(tf.cast(inputs, scale.dtype) * scale + (self.beta.value - mean * scale), inputs.dtype)

    def _fused(self, inputs):
        """One kernel: outputs, mean, and the unbiased variance (this operation's own convention).

        The raw operation, because tf.compat.v1.nn.fused_batch_norm raises epsilon to 1.001e-5.
        """
        images = inputs if inputs.shape.rank == 4 else inputs[:, None, None, :]
        outputs, mean, unbiased, *_ = tf.raw_ops.FusedBatchNormV3(
            x=images,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=BN_EPSILON,
            is_training=True,
        )
        return tf.reshape(outputs, inputs.shape), mean, unbiased


class Block(keras.layers.Layer):
    """Convolutions with normalisation and ReLU; unless `residual` is false, the input is added before the last ReLU.

    Args:
        main: (convolution, normalisation) pairs of the main path.
        shortcut: the pair that fits the input to the output, or None for the identity.
    """

    def __init__(self, main, shortcut, residual: bool, **options):
        super().__init__(**options)
        self.convolutions, self.norms = [conv for conv, _ in main], [norm for _, norm in main]
        self.shortcut, self.shortcut_norm = shortcut or (None, None)
        self.residual = residual
        self.built = True

    def call(self, images, training=False, track=False):
        outputs = images
        for index, (conv, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            outputs = norm(conv(tf.nn.relu(outputs) if index else outputs), training=training, track=track)
        if self.residual:
            if self.shortcut is not None:
                images = self.shortcut_norm(self.shortcut(images), training=training, track=track)
            outputs += images
        return tf.nn.relu(outputs)


class Backbone(keras.layers.Layer):
    """Views [N, side, side, 3] to pooled features [N, F]."""

    def __init__(self, network: Network, pairs: Mapping[str, tuple[Convolution, BatchNormalization]], **options):
        super().__init__(**options)
        self.max_pool = network.stem == "imagenet"
        self.stem, self.stem_norm = pairs.get("conv1", (None, None))
        self.blocks = []
        for stage, depth in enumerate(network.depths, start=1):
            for index in range(depth):
                prefix = f"layer{stage}.{index}"
                main = [pair for name, pair in pairs.items() if name.startswith(f"{prefix}.conv")]
                shortcut = pairs.get(f"{prefix}.downsample.0")
                self.blocks.append(Block(main, shortcut, network.block != "conv", name=prefix, dtype=self.dtype_policy))
        self.built = True

    def call(self, images, training=False, track=False):
        if self.stem is not None:
            images = tf.nn.relu(self.stem_norm(self.stem(images), training=training, track=track))
        if self.max_pool:
            border = [[0, 0], [1, 1], [1, 1], [0, 0]]
            images = tf.pad(images, border, constant_values=tf.constant(-np.inf, images.dtype))
            images = tf.nn.max_pool2d(images, ksize=3, strides=2, padding="VALID")
        for block in self.blocks:
            images = block(images, training=training, track=track)
        return tf.reduce_mean(images, axis=[1, 2])


class Head(keras.layers.Layer):
    """Features [N, F] to embeddings [N, D] before normalisation: linear, batch normalisation, ReLU, linear."""

    def __init__(self, network: Network, **options):
        super().__init__(**options)
        policy = self.dtype_policy
        self.hidden = keras.layers.Dense(network.hidden, name="projection_head.0", dtype=policy)
        self.norm = BatchNormalization(network.hidden, name="projection_head.1", dtype=policy)
        self.output_layer = keras.layers.Dense(network.embedding, name="projection_head.3", dtype=policy)
        self.hidden.build((None, network.features))
        self.output_layer.build((None, network.hidden))
        self.built = True

    def call(self, features, training=False, track=False):
        hidden = self.norm(self.hidden(features), training=training, track=track)
        return self.output_layer(tf.nn.relu(hidden))


class SwAV(keras.Model):
    """Backbone, head and prototypes.

    Attributes:
        tensors: published name -> Keras variable, in the order of swav_spec.network.tensor_shapes.
        prototypes: [K, D], in the variables' dtype, as stored: a step normalises its rows.
    """

    def __init__(self, network: Network, precision: Precision):
        wide = "float64" if precision == "float64" else "float32"
        super().__init__(name="swav", dtype=wide)
        policy = POLICIES[precision]
        pairs = convolution_pairs(network, precision)
        self.backbone = Backbone(network, pairs, name="backbone", dtype=policy)
        self.head = Head(network, name="projection_head", dtype=policy)
        self.prototypes = self.add_weight(
            name="prototypes", shape=(network.prototypes, network.embedding), initializer="zeros"
        )
        self.built = True

        tensors = backbone_tensors(pairs) | norm_tensors(self.head.norm)
        for layer in (self.head.hidden, self.head.output_layer):
            tensors |= {f"{layer.name}.weight": layer.kernel, f"{layer.name}.bias": layer.bias}
        tensors["prototypes.weight"] = self.prototypes
        self.tensors = {name: tensors[name].value for name in tensor_shapes(network)}

    def call(self, views, training=False, track=False):
        """Views to features, the head's output, and embeddings of unit length.

        The backbone runs once for each array of views, so its batch normalisation sees one resolution at a time;
        the head runs once over all of them.

        Args:
            views: one [C*B, side, side, 3] tensor per run of equal resolution, crop-major.
            training: normalise with the batch's statistics, else with the running ones.
            track: record the batch's statistics in the running ones (with `training` only).

        Returns:
            [V*B, F] and [V*B, D] in the compute dtype, [V*B, D] in the variables' dtype.
        """
        features = tf.concat([self.backbone(view, training=training, track=track) for view in views], axis=0)
        outputs = self.head(features, training=training, track=track)
        return features, outputs, normalize_rows(tf.cast(outputs, self.prototypes.dtype))

    @property
    def parameters(self) -> dict[str, tf.Variable]:
        """Published name -> trained variable."""
        return {name: variable for name, variable in self.tensors.items() if not is_buffer(name)}


Pairs = Mapping[str, tuple[Convolution, BatchNormalization]]


def convolution_pairs(network: Network, precision: Precision) -> Pairs:
    """Name of each convolution of the backbone -> the convolution and the normalisation behind it."""
    policy = POLICIES[precision]
    return {
        conv.name: (
            Convolution(conv.inputs, conv.outputs, conv.kernel, conv.stride, name=conv.name, dtype=policy),
            BatchNormalization(conv.outputs, name=conv.norm, dtype=policy),
        )
        for conv in convolutions(network)
    }


def backbone_tensors(pairs: Pairs) -> dict[str, keras.Variable]:
    """Published name -> Keras variable of the backbone."""
    tensors = {f"{name}.weight": conv.kernel for name, (conv, _) in pairs.items()}
    for _, norm in pairs.values():
        tensors |= norm_tensors(norm)
    return tensors


def norm_tensors(norm: BatchNormalization) -> dict[str, keras.Variable]:
    """Published name -> Keras variable of one normalisation."""
    return {
        f"{norm.name}.weight": norm.gamma,
        f"{norm.name}.bias": norm.beta,
        f"{norm.name}.running_mean": norm.moving_mean,
        f"{norm.name}.running_var": norm.moving_variance,
        f"{norm.name}.num_batches_tracked": norm.batches,
    }


def to_published(name: str, array: np.ndarray) -> np.ndarray:
    """A tensor in the published layout: kernels [out, in, height, width], linear layers [out, in]."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T if array.ndim == 2 and name != "prototypes.weight" else array


def from_published(name: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `to_published`."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 and name != "prototypes.weight" else array
