"""From decoded pixels to what a model takes: pure functions of arrays, chosen by settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from rayserve_app.errors import ShapeMismatch
from rayserve_app.payloads.normalization import declared_normalization
from rayserve_app.settings.model import InputSettings, Interpolation
from rayserve_app.types import Array

MAX_SIDE_RATIO = 32
"""Of an image whose short side is enlarged: the long one follows, and a line of one pixel would
fill the memory."""

REDUCED_RATIO: Final = 2
"""A JPEG decoded at a reduced size keeps at least so many times the sides that it is resized to.
It is also the ratio that Pillow's `thumbnail` keeps, `reducing_gap`."""

Extent = tuple[float, float]
"""Height and width of an image in its pixels, whose last may lie beyond its edge in part."""


class Preprocessing:
    """The steps that an image model's settings ask for, in this order: resize, colour, scale,
    mean and standard deviation, layout."""

    def __init__(self, settings: InputSettings, *, normalizes: bool = True) -> None:
        """
        Args:
            normalizes: False leaves scale, mean and standard deviation to the model, which then
                gets uint8.
        """
        self._size = settings.size
        self._short_side = settings.short_side
        self._method = settings.interpolation
        self._recolor = _COLORS[settings.color]
        self._channels = 1 if settings.color == "gray" else 3
        self._is_planar = settings.layout == "CHW"
        normalization = declared_normalization(settings)
        self._normalization = normalization if normalizes else None
        self._may_reduce = settings.reduced_decode == "always" or (
            settings.reduced_decode == "auto" and settings.interpolation == "area"
        )
        self.dtype = np.dtype(np.uint8 if self._normalization is None else np.float32)
        self.normalized_dtype = np.dtype(np.uint8 if normalization is None else np.float32)
        """Of what the model computes on, whoever scales it: arrays that nothing is left to do to
        have this type."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of all results, (H, W, C) or (C, H, W); None if it follows the image's."""
        return None if self._size is None else self._shape(*self._size)

    @property
    def least_size(self) -> tuple[int, int] | None:
        """The least height and width at which an image may be decoded; None: only in full."""
        if self._size is None or not self._may_reduce:
            return None
        height, width = (self._short_side,) * 2 if self._short_side else self._size
        return REDUCED_RATIO * height, REDUCED_RATIO * width

    def __call__(
        self, pixels: Array, out: Array | None = None, extent: Extent | None = None
    ) -> Array:
        """Map (H, W, 3) uint8 RGB 0..255 to the model's array: (H, W, C) or (C, H, W), uint8 or
        float32.

        Args:
            out: where to put the result. Without it, the result may be the very pixels, if they
                are writable and nothing is left to do.
            extent: of an image decoded at a reduced size, no less than `least_size`.
        """
        pixels = self._recolor(self._resize(pixels, extent))
        is_plain = self._normalization is None and not self._is_planar
        if is_plain and (pixels is out or (out is None and _is_own(pixels))):
            return pixels
        if out is None:
            out = np.empty(self._shape(*pixels.shape[:2]), self.dtype)
        if self._normalization is None:
            write = _copy_planes if self._is_planar else _copy_rows
            write(pixels, out)
        else:
            scale = _scale_planes if self._is_planar else _scale_rows
            scale(pixels, *self._normalization, out)
        return out

    def _shape(self, height: int, width: int) -> tuple[int, ...]:
        channels = self._channels
        return (channels, height, width) if self._is_planar else (height, width, channels)

    def _resize(self, pixels: Array, extent: Extent | None) -> Array:
        if self._size is None:
            return pixels
        if self._short_side is None:
            return resize(pixels, self._size, self._method, extent)
        pixels = resize_short_side(pixels, self._short_side, self._method, extent)
        return crop_centre(pixels, self._size, self._method)


def _is_own(pixels: Array) -> bool:
    return pixels.flags.c_contiguous and pixels.flags.writeable


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


def _copy_rows(pixels: Array, out: Array) -> None:
    np.copyto(out, pixels)


def _copy_planes(pixels: Array, out: Array) -> None:
    """Write (H, W, C) pixels as (C, H, W)."""
    if np.may_share_memory(pixels, out):
        np.copyto(out.transpose(1, 2, 0), pixels)
        return
    import cv2

    cv2.split(pixels, list(out))  # a fifth of the time that numpy takes with its strides


def _scale_planes(pixels: Array, factor: Array, offset: Array, out: Array) -> None:
    """Write pixels * factor + offset as (C, H, W)."""
    import cv2

    for channel, plane in enumerate(cv2.split(pixels)):
        # In one pass, where numpy takes two and strides over the other channels.
        cv2.addWeighted(
            plane,
            float(factor[channel]),
            plane,
            0,
            float(offset[channel]),
            dst=out[channel],
            dtype=cv2.CV_32F,
        )


def resize(
    pixels: Array,
    size: tuple[int, int],
    method: Interpolation = "area",
    extent: Extent | None = None,
) -> Array:
    """Return (H, W, C) pixels at (height, width); `area` is bilinear unless both sides shrink.

    Args:
        extent: of an image decoded at a reduced size, at least twice `size`.
    """
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
    dsize: tuple[int, int] | None = (width, height)
    fx = fy = 0.0
    if extent is not None and extent != pixels.shape[:2]:
        # By these OpenCV maps the extent, not the pixels, and rounding them it finds the size.
        dsize, fx, fy = None, width / extent[1], height / extent[0]
    try:
        resized = cv2.resize(pixels, dsize, fx=fx, fy=fy, interpolation=methods[method])
    finally:
        cv2.ipp.setUseIPP(uses_ipp)
    return resized


def resize_short_side(
    pixels: Array, short_side: int, method: Interpolation = "area", extent: Extent | None = None
) -> Array:
    """Return the pixels with their short side at `short_side`, the other in proportion.

    Args:
        extent: of an image decoded at a reduced size, its short side at least twice `short_side`.
    Raises:
        ShapeMismatch: sides of more than MAX_SIDE_RATIO to 1.
    """
    height, width = extent or pixels.shape[:2]
    if max(height, width) > MAX_SIDE_RATIO * min(height, width):
        raise ShapeMismatch(
            "The image is too narrow",
            expected=f"sides of at most {MAX_SIDE_RATIO} to 1",
            got=f"{max(height, width) / min(height, width):.1f} to 1",
        )
    if height < width:
        size = (short_side, int(short_side * width // height))
    else:
        size = (int(short_side * height // width), short_side)
    return resize(pixels, size, method, extent)


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


def to_bgr(pixels: Array) -> Array:
    """Return the channels in reverse order, contiguous."""
    import cv2

    reverse: Array = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return reverse


_COLORS: Final[dict[str, Callable[[Array], Array]]] = {
    "RGB": lambda pixels: pixels,
    "BGR": to_bgr,
    "gray": to_gray,
}
