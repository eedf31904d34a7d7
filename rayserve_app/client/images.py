"""From what a caller hands over to what travels: one image, array or text of a request."""

from __future__ import annotations

import io
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL.Image import fromarray

from rayserve_app.client.description import Description
from rayserve_app.codecs import image, json, npy, packed_jpeg
from rayserve_app.errors import InvalidRequest, PredictError
from rayserve_app.media_types import JSON, NPY, OCTETS, TEXT
from rayserve_app.types import Array, Buffer, describe

Image: TypeAlias = str | os.PathLike[str] | Buffer | Array | Mapping[str, Any]
"""A path (of the caller's own machine: what a file holds is sent, never its name), the bytes of an
image file, pixels uint8 (H, W, 3), RGB, or the model's own array; for a model of several inputs a
mapping of name to array; for a model of strings a str is the string itself."""

_KINDS = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Mapping)


class Element(NamedTuple):
    """One item, ready to travel."""

    data: bytes | Array
    content_type: str
    kind: Hashable = None
    """Elements of one kind may travel together; None travels alone."""
    pixels: int = 0
    """As the server counts them against its limit for one request."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.data.nbytes if isinstance(self.data, np.ndarray) else len(self.data)


def read(value: Image, description: Description, content_type: str | None = None) -> Element:
    """Return one item as the model takes it.

    Raises:
        InvalidRequest: a file that cannot be read, no bytes at all, or what the model does not
            take.
    """
    if description.input_type == "request":
        return _whole_body(value, content_type)
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, np.ndarray) and not description.takes_encoded:
        return _tensor(value, description)
    if isinstance(value, np.ndarray) and description.takes_image_arrays:
        return _pixels(value, description)
    if description.takes_encoded:
        return _encoded(value, description)
    if description.input_type == "string":
        text = value.encode() if isinstance(value, str) else read_bytes(value)
        return Element(text, TEXT)
    # A model of arrays: the bytes are those of a `.npy` file.
    return _tensor(npy.decode(read_bytes(value)), description)


def is_many(value: Any, description: Description) -> bool:
    """Return whether a value is many items: a list, or an array with an axis more than one item."""
    if isinstance(value, np.ndarray):
        if description.takes_encoded:
            return value.ndim == 4
        return description.item_rank is not None and value.ndim == description.item_rank + 1
    return not isinstance(value, _KINDS)


def read_bytes(value: Any) -> bytes:
    """Return the bytes of an image file.

    Raises:
        InvalidRequest: no such file, an empty one, or an array that is not pixels.
    """
    if isinstance(value, np.ndarray):
        return _png(value)
    if isinstance(value, str | os.PathLike):
        try:
            data = Path(value).read_bytes()
        except (OSError, ValueError) as exc:
            raise InvalidRequest(f"The file cannot be read: {exc}") from exc
    elif isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
    else:
        raise InvalidRequest(
            "Not an image", expected="a path, bytes or an array", got=type(value).__name__
        )
    if not data:
        raise InvalidRequest("No bytes", expected="an image", got="an empty file or value")
    return data


def _encoded(value: Any, description: Description) -> Element:
    data = read_bytes(value)
    pixels = 0
    if description.input_type == "image":
        height, width = description.input_size or image.read_size(data) or (0, 0)
        pixels = height * width
    if description.takes_stream:
        return Element(data, packed_jpeg.MEDIA_TYPE, packed_jpeg.MEDIA_TYPE, pixels)
    return Element(data, OCTETS, pixels=pixels)


def _pixels(array: Array, description: Description) -> Element:
    size = description.input_size
    pixels = size[0] * size[1] if size else array.size // 3
    # Of two axes, a third one of many images could be taken for channels.
    kind = (array.dtype.str, array.shape) if array.ndim == 3 else None
    return Element(array, NPY, kind, pixels)


def _tensor(array: Array, description: Description) -> Element:
    is_item = array.ndim == description.item_rank
    return Element(array, NPY, (array.dtype.str, array.shape) if is_item else None)


def _mapping(value: Mapping[str, Any]) -> Element:
    try:
        return Element(json.encode(dict(value)), JSON)
    except PredictError as exc:
        raise InvalidRequest(f"A mapping that is no JSON: {exc}") from exc


def _whole_body(value: Any, content_type: str | None) -> Element:
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, np.ndarray):
        return Element(npy_bytes(value), NPY)
    return Element(read_bytes(value), content_type or OCTETS)


def npy_bytes(array: Array) -> bytes:
    """Return an array of any shape as `.npy`.

    Raises:
        InvalidRequest: an array of objects.
    """
    try:
        return b"".join(npy.encode(array))
    except PredictError as exc:
        raise InvalidRequest("Not an array of numbers", got=describe(array)) from exc


def _png(array: Array) -> bytes:
    """Return pixels as PNG, which loses nothing."""
    planes = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    is_image = planes.ndim == 2 or (planes.ndim == 3 and planes.shape[2] == 3)
    if array.dtype != np.uint8 or not is_image or not array.size:
        raise InvalidRequest("Not pixels", expected="uint8 (H, W, 3), RGB", got=describe(array))
    file = io.BytesIO()
    fromarray(np.ascontiguousarray(planes)).save(file, "PNG", compress_level=1)
    return file.getvalue()
