"""From decoded pixels to what a model takes: pure functions of arrays, chosen by settings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rayserve_app import buffers
from rayserve_app.errors import ShapeMismatch
from rayserve_app.settings import InputSettings, Interpolation
from rayserve_app.types import Array

MAX_SIDE_RATIO = 32
"""Of an image whose short side is enlarged: the long one follows, and a line of one pixel would
fill the memory."""

Step = Callable[[Array], Array]


class Preprocessing:
    """The steps that an image model's settings ask for, in this order: resize, colour, scale,
    mean and standard deviation, layout."""

    def __init__(self, settings: InputSettings) -> None:
        self._steps = _steps(settings)
        self._size = settings.size
        self._channels = 1 if settings.color == "gray" else 3
        self._is_planar = settings.layout == "CHW"
        self._affine: tuple[Array, Array] | None = None
        if (settings.scale, settings.mean, settings.std) != (None, None, None):
            self._affine = _affine(settings)
        self.dtype = np.dtype(np.uint8 if self._affine is None else np.float32)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of all results, (H, W, C) or (C, H, W); None if it follows the image's."""
        return None if self._size is None else self._shape(*self._size)

    def __call__(self, pixels: Array, out: Array | None = None) -> Array:
        """Map (H, W, 3) uint8 RGB 0..255 to the model's array: (H, W, C) or (C, H, W), uint8 or
        float32; into `out`, if there is one."""
        for step in self._steps:
            pixels = step(pixels)
        if out is None:
            out = buffers.empty(self._shape(*pixels.shape[:2]), self.dtype)
        target = out.transpose(1, 2, 0) if self._is_planar else out
        if self._affine is None:
            np.copyto(target, pixels)
        elif self._is_planar:
            _scale_planes(pixels, *self._affine, target)
        else:
            _scale_rows(pixels, *self._affine, target)
        return out

    def _shape(self, height: int, width: int) -> tuple[int, ...]:
        channels = self._channels
        return (channels, height, width) if self._is_planar else (height, width, channels)


def _steps(settings: InputSettings) -> list[Step]:
    steps: list[Step] = []
    size, method = settings.size, settings.interpolation
    if settings.short_side is not None and size is not None:
        short_side = settings.short_side
        steps.append(lambda pixels: resize_short_side(pixels, short_side, method))
        steps.append(lambda pixels: crop_centre(pixels, size, method))
    elif size is not None:
        steps.append(lambda pixels: resize(pixels, size, method))
    if settings.color == "BGR":
        steps.append(lambda pixels: pixels[:, :, ::-1])
    elif settings.color == "gray":
        steps.append(to_gray)
    return steps


def _affine(settings: InputSettings) -> tuple[Array, Array]:
    """Return per channel the factor and the offset of (x * scale - mean) / std."""
    scale = 1.0 if settings.scale is None else settings.scale
    mean = np.array(settings.mean or (0.0, 0.0, 0.0))
    std = np.array(settings.std or (1.0, 1.0, 1.0))
    if settings.color == "gray":
        mean, std = mean[:1], std[:1]
    return (scale / std).astype(np.float32), (-mean / std).astype(np.float32)


def _scale_rows(pixels: Array, factor: Array, offset: Array, out: Array) -> None:
    """Write pixels * factor + offset, for (H, W, C) pixels and C factors and offsets.

    Works on whole rows: broadcasting over an axis of three takes twenty times as long.
    """
    height, width, channels = pixels.shape
    source = np.ascontiguousarray(pixels).reshape(height, width * channels)
    target = out.reshape(height, width * channels)
    row_factor = factor[0] if (factor == factor[0]).all() else np.tile(factor, width)
    np.multiply(source, row_factor, out=target, dtype=np.float32)
    if offset.any():
        target += np.tile(offset, width)


def _scale_planes(pixels: Array, factor: Array, offset: Array, out: Array) -> None:
    """Write the same where each channel of `out`, (H, W, C), is a plane of its own."""
    for channel in range(pixels.shape[2]):
        plane = out[:, :, channel]
        np.multiply(pixels[:, :, channel], factor[channel], out=plane, dtype=np.float32)
        if offset[channel]:
            plane += offset[channel]


def resize(pixels: Array, size: tuple[int, int], method: Interpolation = "area") -> Array:
    """Return (H, W, C) pixels at (height, width); `area` is bilinear unless both sides shrink."""
    height, width = size
    if pixels.shape[:2] == (height, width):
        return pixels
    import cv2  # 40 MB that a model without resizing does not pay for

    if method == "area" and (height > pixels.shape[0] or width > pixels.shape[1]):
        method = "linear"
    methods = {
        "area": cv2.INTER_AREA,
        "nearest": cv2.INTER_NEAREST,
        "linear": cv2.INTER_LINEAR,
        "cubic": cv2.INTER_CUBIC,
        "lanczos": cv2.INTER_LANCZOS4,
    }
    # Of Intel's IPP, which x86 builds call, one value in thirty of a cubic image is off by one from
    # OpenCV's own, which all other builds and MXNet have. The switch is this thread's alone.
    uses_ipp = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(uses_ipp and method != "cubic")
    try:
        resized: Array = cv2.resize(pixels, (width, height), interpolation=methods[method])
    finally:
        cv2.ipp.setUseIPP(uses_ipp)
    return resized


def resize_short_side(pixels: Array, short_side: int, method: Interpolation = "area") -> Array:
    """Return the pixels with their short side at `short_side`, the other in proportion.

    Raises:
        ShapeMismatch: sides of more than MAX_SIDE_RATIO to 1.
    """
    height, width = pixels.shape[:2]
    if max(height, width) > MAX_SIDE_RATIO * min(height, width):
        raise ShapeMismatch(
            "The image is too narrow",
            expected=f"sides of at most {MAX_SIDE_RATIO} to 1",
            got=f"{width} x {height} pixels",
        )
    if height < width:
        return resize(pixels, (short_side, short_side * width // height), method)
    return resize(pixels, (short_side * height // width, short_side), method)


def crop_centre(pixels: Array, size: tuple[int, int], method: Interpolation = "area") -> Array:
    """Return the central (height, width) part; a smaller image is enlarged to it first."""
    height, width = size
    if pixels.shape[0] < height or pixels.shape[1] < width:
        larger = (max(height, pixels.shape[0]), max(width, pixels.shape[1]))
        pixels = resize(pixels, larger, method)
    top = (pixels.shape[0] - height) // 2
    left = (pixels.shape[1] - width) // 2
    cropped: Array = pixels[top : top + height, left : left + width]
    return cropped


def to_gray(pixels: Array) -> Array:
    """Return (H, W, 1) luma of ITU-R BT.601, rounded."""
    luma = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    gray: Array = np.rint(luma).astype(np.uint8)[:, :, None]
    return gray
