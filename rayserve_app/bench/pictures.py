"""Encoded pictures made from code: smooth colours with a camera's noise, so that they take as many
bytes as photographs do. The same seed makes the same picture."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

SIDE = 512
"""Height and width of the JPEG that models of images are asked with."""

SMALL_SIDE = 68
"""Of the PNG."""

MIXED_SIDES = (128, 1024, 256, 384, 128, 768, 384, 256)
"""As many pixels as so many pictures of SIDE have."""

PNG = "10 KB PNG"
JPEG = "130 KB JPEG"

NOISE = 8.5
"""Standard deviation of the pixels, of 255."""


def png(side: int, seed: int = 0) -> bytes:
    """Return a square PNG; 68 pixels make about 10 KB."""
    return _encode(_picture(side, seed), "PNG")


def plain_png(side: int, seed: int = 0) -> bytes:
    """Return a square PNG of one colour: few bytes, however many pixels have to be decoded."""
    color = tuple(np.random.default_rng(seed).integers(0, 256, 3).tolist())
    return _encode(Image.new("RGB", (side, side), color), "PNG")


def jpeg(side: int, seed: int = 0) -> bytes:
    """Return a square JPEG of quality 95; 512 pixels make about 130 KB."""
    return _encode(_picture(side, seed), "JPEG", quality=95)


def both() -> dict[str, tuple[bytes, str]]:
    """Return the PNG and the JPEG by name, each with its media type."""
    return {PNG: (png(SMALL_SIDE), "image/png"), JPEG: (jpeg(SIDE), "image/jpeg")}


def _picture(side: int, seed: int) -> Image.Image:
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.float32)
    noisy = smooth + random.normal(0, NOISE, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _encode(picture: Image.Image, form: str, **options: int) -> bytes:
    file = BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()
