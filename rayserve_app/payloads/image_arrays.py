"""Images that arrive as arrays: as pixels, or as what preprocessing would have made of them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from rayserve_app.errors import ShapeMismatch
from rayserve_app.payloads.preprocessing import Preprocessing
from rayserve_app.payloads.tensors import as_array, fit, shape_text
from rayserve_app.settings.model import InputSettings
from rayserve_app.types import Array, TensorSpec, describe

PIXELS: Final = "uint8 (*, *, 3), RGB"


def is_array(value: Any) -> bool:
    """Return whether a JSON value is an array of at least two axes: lists of lists of numbers."""
    depth = 0
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth > 1 and isinstance(value, int | float)


class ImageArrays:
    """Reads arrays for one model of images.

    The type tells what an array holds. uint8 is pixels, 0..255: (H, W, 3) RGB, or (H, W) or
    (H, W, 1) grey, of any size, which are preprocessed as a decoded image is; so are JSON's numbers
    if all are integers. Any other type is the model's own array, already as preprocessing leaves
    it: (H, W, C) or (C, H, W), or (H, W) where the model is for grey ones.
    """

    def __init__(self, settings: InputSettings, preprocess: Preprocessing) -> None:
        self._preprocess = preprocess
        height, width = settings.size or (-1, -1)
        channels = 1 if settings.color == "gray" else 3
        self._channel_axis = 0 if settings.layout == "CHW" else 2
        shape = [height, width]
        shape.insert(self._channel_axis, channels)
        self._spec = TensorSpec("image", preprocess.normalized_dtype.name, (-1, *shape))
        self._is_gray = settings.color == "gray"

    def read(self, array: Array) -> Array:
        """Return one image as the model takes it.

        Raises:
            ShapeMismatch: the array is neither of the two, or has no pixels.
        """
        if not array.size:
            raise self._mismatch(array)
        if array.dtype == np.uint8:
            return self._preprocess(self._as_rgb(array))
        if self._is_gray and array.ndim == 2:
            array = np.expand_dims(array, self._channel_axis)
        if array.ndim != 3:
            raise self._mismatch(array)
        return fit(array, self._spec)

    def split(self, value: Any) -> tuple[list[Array], bool]:
        """Return what one array holds, still to be read: one image, or those of a batch along
        axis 0; and whether it was a batch.

        Args:
            value: an array, or JSON's nested lists.
        Raises:
            ShapeMismatch: the lists make no array of numbers, or of integers that are no pixels.
        """
        array = as_array(value, self._spec)
        if isinstance(value, list) and array.dtype.kind in "iu":
            if array.ndim < 4:
                return [_as_pixels(array)], False
            return [_as_pixels(each, f"[{index}]") for index, each in enumerate(array)], True
        is_batch = array.ndim == 4 or (array.ndim == 3 and self._holds_planes(array))
        return (list(array) if is_batch else [array]), is_batch

    def _holds_planes(self, array: Array) -> bool:
        """Return whether three axes are (N, H, W): one grey image has an axis of length 1."""
        is_own = self._is_gray and array.dtype != np.uint8
        return is_own and array.shape[self._channel_axis] != 1

    def _as_rgb(self, array: Array) -> Array:
        pixels = array[:, :, None] if array.ndim == 2 else array
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
            raise self._mismatch(array)
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3))

    def _mismatch(self, array: Array) -> ShapeMismatch:
        own = "" if self._spec.dtype == "uint8" else f"{shape_text(self._spec)} or, as pixels, "
        return ShapeMismatch("Not an image", expected=f"{own}{PIXELS}", got=describe(array))


def _as_pixels(array: Array, path: str = "") -> Array:
    """Return JSON's integers as pixels. To take them for the model's own would be to take black and
    white for what preprocessing makes of others."""
    if array.size and not (array.min() >= 0 and array.max() <= 255):
        raise ShapeMismatch(
            "Integers are pixels",
            expected="0 to 255",
            got=f"{array.min()} to {array.max()}",
            path=path,
            remedy="Write the model's own numbers with a decimal point.",
        )
    return array.astype(np.uint8)
