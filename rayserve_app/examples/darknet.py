"""YOLOv3 on Darknet-53 (Redmon and Farhadi 2018, figure 1 and table 1) with seeded weights.

What it detects means nothing. It has the layers, names, shapes and relative costs of the real
detector at a fraction of its width, so that answers can be checked and speed compared.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

STAGES = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
"""Channels and residual blocks of Darknet-53's stages; each halves height and width first."""

HEAD_CHANNELS = 3 * (4 + 1 + 80)
"""Three anchors at each place: a box, whether there is an object, and COCO's 80 classes."""

OUTPUTS = ("conv2d_58", "conv2d_66", "conv2d_74")
"""The heads for large, middle and small objects, at strides 32, 16 and 8."""


def build(path: str | Path, *, width: float = 0.125, seed: int = 0) -> None:
    """Save the detector.

    Signature `serving_default`: `images`, (N, H, W, 3) float32, RGB, 0-1, H and W divisible by 32
    (512 in the example); for each of `OUTPUTS` (N, H / stride, W / stride, 255) float32.

    Args:
        width: share of the original's channels in each layer but the heads.
        seed: the same seed gives the same weights.
    """
    import tensorflow as tf

    model = detector(width=width, seed=seed)
    spec = tf.TensorSpec((None, None, None, 3), tf.float32, name="images")
    call = tf.function(lambda images: model(images, training=False), input_signature=[spec])
    # The weights and the one function alone: a Keras model would save a function for each layer,
    # and take twice as long to write.
    bare = tf.Module()
    bare.weights = [weight.value for weight in model.weights]
    tf.saved_model.save(bare, str(path), signatures={"serving_default": call})


def detector(*, width: float = 0.125, seed: int = 0) -> Any:
    """Return the detector as a Keras model of the signature that `build` describes."""
    import keras

    images = keras.Input((None, None, 3), name="images")
    layers = _Layers(width)
    stride_8, stride_16, stride_32 = _darknet_53(layers, images)
    large, x = _head(layers, stride_32, 512)
    x = layers.concatenate_upsampled(layers.convolve(x, 256, 1), stride_16)
    middle, x = _head(layers, x, 256)
    x = layers.concatenate_upsampled(layers.convolve(x, 128, 1), stride_8)
    small, _ = _head(layers, x, 128)
    model = keras.Model(images, dict(zip(OUTPUTS, (large, middle, small), strict=True)))
    _set_weights(model, np.random.default_rng(seed))
    return model


class _Layers:
    """Adds layers, numbering convolutions as Keras does: the heads' names depend on it."""

    def __init__(self, width: float) -> None:
        self.width = width
        self.convolutions = 0

    def convolve(self, x: Any, channels: int, kernel: int, stride: int = 1) -> Any:
        """Return x after convolution, batch normalisation and leaky ReLU."""
        import keras

        number = self.convolutions
        x = self._conv(x, math.ceil(channels * self.width), kernel, stride, use_bias=False)
        x = keras.layers.BatchNormalization(epsilon=1e-5, name=f"normalization_{number}")(x)
        return keras.layers.LeakyReLU(negative_slope=0.1)(x)

    def head(self, x: Any) -> Any:
        """Return x after the linear convolution that ends a head."""
        return self._conv(x, HEAD_CHANNELS, 1, 1, use_bias=True)

    def concatenate_upsampled(self, x: Any, larger: Any) -> Any:
        import keras

        return keras.layers.Concatenate()([keras.layers.UpSampling2D(2)(x), larger])

    def _conv(self, x: Any, channels: int, kernel: int, stride: int, *, use_bias: bool) -> Any:
        import keras

        name = f"conv2d_{self.convolutions}"
        self.convolutions += 1
        return keras.layers.Conv2D(
            channels, kernel, stride, padding="same", use_bias=use_bias, name=name
        )(x)


def _darknet_53(layers: _Layers, images: Any) -> list[Any]:
    """Return the features at strides 8, 16 and 32; the 53rd layer, the classifier, is left out."""
    import keras

    x = layers.convolve(images, 32, 3)
    stages = []
    for channels, blocks in STAGES:
        x = layers.convolve(x, channels, 3, stride=2)
        for _ in range(blocks):
            branch = layers.convolve(layers.convolve(x, channels // 2, 1), channels, 3)
            x = keras.layers.Add()([x, branch])
        stages.append(x)
    return stages[2:]


def _head(layers: _Layers, x: Any, channels: int) -> tuple[Any, Any]:
    """Return a head's output, and the features that the next head takes up."""
    for _ in range(2):
        x = layers.convolve(layers.convolve(x, channels, 1), 2 * channels, 3)
    x = layers.convolve(x, channels, 1)
    return layers.head(layers.convolve(x, 2 * channels, 3)), x


def _set_weights(model: Any, random: np.random.Generator) -> None:
    """Give every layer weights that keep the signal's size through 75 convolutions."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel, *bias = (weight.shape for weight in layer.weights)
            scale = math.sqrt(2 / math.prod(kernel[:-1]))  # He: ReLU halves the variance
            layer.set_weights(
                [random.normal(0, scale, kernel), *[random.normal(0, 0.1, each) for each in bias]]
            )
        elif isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights(
                [
                    random.uniform(0.5, 0.9, shape),  # under 1: 23 residual sums add up
                    random.normal(0, 0.1, shape),
                    random.normal(0, 0.1, shape),
                    random.uniform(0.8, 1.2, shape),
                ]
            )
