"""Closures whose own cost is known, so that what is measured is the server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import numpy as np

from rayserve_app.types import Array

BATCH_S: Final = 0.05
LONG_BATCH_S: Final = 0.2

HEADS: Final[Mapping[str, tuple[int, int, int]]] = {
    "conv2d_58": (16, 16, 255),
    "conv2d_66": (32, 32, 255),
    "conv2d_74": (64, 64, 255),
}
"""The shapes (H, W, C) of what yolov3 says of one image of 512x512 pixels: 5.48 MB of float32."""

MAX_IMAGES: Final = 10
HEADS_BYTES: Final = sum(4 * MAX_IMAGES * h * w * c for h, w, c in HEADS.values())
"""Bytes of the heads of ten images: 54.8 MB."""

TEXTURE_SIDE: Final = 224
"""Height and width of the images whose texture or colour is described."""

BANDS: Final = 32


def sleep_50_ms(inputs: Any) -> list[int]:
    """Take 50 ms for a batch of any size, as a GPU does within limits; answer the batch's size."""
    time.sleep(BATCH_S)
    return [len(inputs)] * len(inputs)


def sleep_200_ms(inputs: Any) -> list[int]:
    """Take 200 ms for a batch, as a large network does; answer the batch's size."""
    time.sleep(LONG_BATCH_S)
    return [len(inputs)] * len(inputs)


def fresh_heads(images: Any) -> dict[str, Array]:
    """Answer arrays (N, H, W, C) of yolov3's shapes, new each time, as a framework's are."""
    return {name: np.ones((len(images), *shape), np.float32) for name, shape in HEADS.items()}


@cache
def _all_heads() -> dict[str, Array]:
    return fresh_heads(range(MAX_IMAGES))


def constant_heads(images: Any) -> dict[str, Array]:
    """Answer the same arrays to every batch, without a copy."""
    return {name: array[: len(images)] for name, array in _all_heads().items()}


def corner_colors(images: Any) -> list[list[int]]:
    """Tell the colour of the first pixel of images (N, H, W, C): what takes time is decoding."""
    colors: list[list[int]] = images[:, 0, 0].tolist()
    return colors


def band_energies(images: Any) -> list[list[float]]:
    """Describe the texture of images (N, H, W, C): how much of each is in each of `BANDS` rings of
    spatial frequency. One inverse FFT per ring, in numpy on one core: about 30 ms per image."""
    return [_energies(image) for image in images]


def _energies(image: Array) -> list[float]:
    height, width = image.shape[:2]
    spectrum = np.fft.rfft2(image, axes=(0, 1))
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))[..., None]
    rings = np.floor(radius * 2 * BANDS)  # up to the highest frequency along an axis, 1/2
    return [
        float(np.abs(np.fft.irfft2(spectrum * (rings == ring), (height, width), (0, 1))).mean())
        for ring in range(BANDS)
    ]
