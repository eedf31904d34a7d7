"""What the peers compute: the bench's own models with the decoder that our server has, by hand, so
that only the servers differ.

Imported in the peers' environments, which find this project through `PYTHONPATH`; no more of it
than the bench's models and two codecs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image

from rayserve_app.bench import models, networks
from rayserve_app.codecs import npy, packed_jpeg
from rayserve_app.process.cores import available_cores
from rayserve_app.types import Array, Buffer

SCALE: Final = np.float32(1 / 255)

# A worker decodes one image at a time, beside others.
cv2.setNumThreads(1)


def image_size(image: bytes) -> tuple[int, int]:
    return Image.open(BytesIO(image)).size


def decode(jpeg: Buffer) -> Array:
    """Return (H, W, 3) uint8, RGB."""
    pixels: Array = simplejpeg.decode_jpeg(jpeg, "RGB")
    return pixels


def resize(pixels: Array, side: int) -> Array:
    """Return (side, side, 3); by area, or bilinear where the image is enlarged."""
    method = cv2.INTER_AREA if min(pixels.shape[:2]) > side else cv2.INTER_LINEAR
    return cv2.resize(pixels, (side, side), interpolation=method)


def corner_color(jpeg: bytes) -> list[int]:
    return models.corner_colors(resize(decode(jpeg), models.TEXTURE_SIDE)[None])[0]


def texture(jpeg: bytes) -> list[float]:
    pixels = resize(decode(jpeg), models.TEXTURE_SIDE)[None]
    return models.band_energies(pixels * SCALE)[0]


class Heads:
    """A packed stream of JPEGs in, an .npy of yolov3's shapes out; decodes on all cores, as our
    server does."""

    def __init__(self) -> None:
        self._decoders = ThreadPoolExecutor(available_cores())

    def __call__(self, stream: bytes) -> bytes:
        jpegs = packed_jpeg.decode(stream, max_items=models.MAX_IMAGES)
        images = np.stack([*self._decoders.map(_decode_scaled, jpegs)])
        heads = models.constant_heads(images).values()
        return b"".join(npy.encode(np.concatenate([head.ravel() for head in heads])))


def _decode_scaled(jpeg: Buffer) -> Array:
    return decode(jpeg) * SCALE


def preprocess(jpeg: bytes) -> Array:
    """Return what the network takes of one image: (3, SIDE, SIDE) float32, 0-1."""
    planes = resize(decode(jpeg), networks.SIDE).transpose(2, 0, 1)
    scaled: Array = np.multiply(planes, SCALE, order="C")
    return scaled


class Network:
    """The bench's network in PyTorch, on so many cores."""

    def __init__(self, threads: int, variables: Mapping[str, str] = os.environ) -> None:
        import torch
        from safetensors.torch import load_file

        torch.set_num_threads(threads)
        self._torch = torch
        self._module = networks.create_network().eval()
        self._module.load_state_dict(load_file(Path(variables[networks.WEIGHTS_VARIABLE])))

    def predict_jpegs(self, jpegs: Iterable[bytes]) -> Array:
        """Map N images to (N, CLASSES), float32."""
        return self.predict(np.stack([preprocess(jpeg) for jpeg in jpegs]))

    def predict(self, images: Array) -> Array:
        """Map (N, 3, SIDE, SIDE) to (N, CLASSES), float32."""
        with self._torch.inference_mode():
            answer: Any = self._module(self._torch.from_numpy(images))
        result: Array = answer.numpy()
        return result
