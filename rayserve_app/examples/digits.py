"""A classifier of handwritten digits that decodes its images itself, as the `deep_image_model` of
simple_tensorflow_serving does: its clients send JPEG or PNG as urlsafe base64 strings.

It is trained when it is built, on scikit-learn's copy of the UCI digits (1,797 of 8 x 8 pixels).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rayserve_app.types import Array

SIDE = 8
"""Height and width that the network sees."""

RENDERED_SIDE = 64
"""Height and width of the images that clients send."""

HELD_BACK_EVERY = 5
"""One digit of this many is kept from training; neighbours in the data are of one writer."""


def build(path: str | Path, *, seed: int = 0) -> None:
    """Train the classifier and save it.

    Signatures `serving_default` and `images`, which are the same: input `images`, (N,) strings,
    urlsafe base64 of one JPEG or PNG each, of any size, grey or colour, a light digit on a dark
    ground; outputs `predict`, (N,) int64, and `probability`, (N, 10) float32.
    """
    import tensorflow as tf
    from sklearn.neural_network import MLPClassifier

    images, labels = _rendered(held_back=False)
    pixels = _read_images(tf.constant(_encode(images))).numpy()
    network = MLPClassifier((64,), learning_rate_init=0.01, random_state=seed)
    network.fit(pixels, labels)
    module = tf.Module()
    classify = _classifier(module, network.coefs_, network.intercepts_)
    signatures = {"serving_default": classify, "images": classify}
    tf.saved_model.save(module, str(path), signatures=signatures)


def held_back() -> tuple[list[bytes], list[int]]:
    """Return the digits that training never sees: PNGs, (64, 64) uint8 grey, and their labels."""
    return _rendered(held_back=True)


def _rendered(*, held_back: bool) -> tuple[list[bytes], list[int]]:
    """Return the digits of either share, as PNGs, and their labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = (np.arange(len(digits.target)) % HELD_BACK_EVERY == 0) == held_back
    return (
        [_render_png(image) for image in digits.images[chosen]],
        [int(label) for label in digits.target[chosen]],
    )


def _render_png(digit: Array) -> bytes:
    """Return a digit, (8, 8) of 0-16, as a PNG of the size that clients send."""
    pixels = (digit * (255 / 16)).round().astype(np.uint8)
    size = (RENDERED_SIDE, RENDERED_SIDE)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def _encode(images: Sequence[bytes]) -> list[bytes]:
    return [base64.urlsafe_b64encode(image) for image in images]


def _classifier(
    module: Any, kernels: Sequence[Array], biases: Sequence[Array]
) -> Callable[..., Any]:
    """Return the signature's function; `module` keeps the variables of the two layers."""
    import tensorflow as tf

    module.kernels = [tf.Variable(kernel, dtype=tf.float32) for kernel in kernels]
    module.biases = [tf.Variable(bias, dtype=tf.float32) for bias in biases]

    def classify(images: Any) -> dict[str, Any]:
        hidden = tf.nn.relu(_read_images(images) @ module.kernels[0] + module.biases[0])
        logits = hidden @ module.kernels[1] + module.biases[1]
        return {"predict": tf.argmax(logits, axis=1), "probability": tf.nn.softmax(logits)}

    spec = tf.TensorSpec((None,), tf.string, name="images")
    function: Callable[..., Any] = tf.function(classify, input_signature=[spec])
    return function


def _read_images(images: Any) -> Any:
    """Return (N, 64) float32 of 0-1 for N encoded images, as operations of the graph."""
    import tensorflow as tf

    def read(image: Any) -> Any:
        decoded = tf.io.decode_image(
            tf.io.decode_base64(image), channels=1, expand_animations=False
        )
        grey = tf.ensure_shape(decoded, (None, None, 1))
        return tf.image.resize(grey, (SIDE, SIDE), antialias=True) / 255.0

    shape = tf.TensorSpec((SIDE, SIDE, 1), tf.float32)
    return tf.reshape(tf.map_fn(read, images, fn_output_signature=shape), (-1, SIDE * SIDE))
