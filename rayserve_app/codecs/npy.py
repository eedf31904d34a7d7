"""The .npy format, versions 1.0, 2.0 and 3.0 (numpy.lib.format).

Pickled (object) and structured arrays are refused.
"""

from __future__ import annotations

import ast
import io
import math
import struct
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from rayserve_app.codecs import image_header
from rayserve_app.errors import DecodeError, PredictError
from rayserve_app.types import Array, Buffer

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 4096
_KEYS = {"descr", "fortran_order", "shape"}
# Version: how the header's length is written, and the header's encoding.
_VERSIONS = {(1, 0): ("<H", "latin-1"), (2, 0): ("<I", "latin-1"), (3, 0): ("<I", "utf-8")}


def decode(data: Buffer) -> Array:
    """Decode one array.

    Returns:
        A read-only view of `data`, of the shape, type and order that its header states.

    Raises:
        DecodeError: Not .npy, a header out of bounds, an object or structured type, or more or
            fewer bytes than the shape needs.
    """
    view = memoryview(data)
    fields, start = _read_header(view)
    dtype, shape = _read_dtype(fields["descr"]), _read_shape(fields["shape"])
    size = math.prod(shape) * dtype.itemsize
    if size != len(view) - start:
        raise DecodeError(
            "the .npy array has the wrong size",
            expected=f"{size} bytes for {dtype} {shape}",
            got=f"{len(view) - start}",
        )
    order: Literal["F", "C"] = "F" if fields["fortran_order"] else "C"
    try:
        array: Array = np.ndarray(shape, dtype, view, start, order=order)
    except (ValueError, TypeError, OverflowError, MemoryError) as exc:
        raise DecodeError(f"not a .npy array: {exc}") from exc
    array.flags.writeable = False
    return array


def encode(array: Array) -> list[Buffer]:
    """Encode an array of any shape in C order, as a header and the array's own buffer.

    Returns:
        The header, and a byte view of the array: of itself where it is C-contiguous, else of a
        copy.

    Raises:
        PredictError: An array of objects.
    """
    if array.dtype.hasobject:
        raise PredictError("an array of objects cannot be written as .npy", got=str(array.dtype))
    contiguous = np.asarray(array, order="C")
    # memoryview.cast knows neither empty arrays nor all types; numpy's own view does.
    body = contiguous.reshape(-1).view(np.uint8).data if contiguous.nbytes else memoryview(b"")
    return [header(array.dtype, array.shape), body]


@lru_cache(maxsize=256)
def header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the version 1.0 header of a C-ordered array, as `np.save` writes it."""
    file = io.BytesIO()
    fields = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": tuple(int(length) for length in shape),
    }
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


def _read_header(view: memoryview) -> tuple[dict[str, Any], int]:
    """Return the header's fields, and where the array starts."""
    if view[: len(_MAGIC)] != _MAGIC or len(view) < 12:
        name = image_header.evident_format(view)
        remedy = f"It is a {name} image, whose type is image/{name.lower()}" if name else None
        expected = f"magic {_MAGIC!r} and a header"
        raise DecodeError("not a .npy array", expected=expected, remedy=remedy)
    version = (view[6], view[7])
    if version not in _VERSIONS:
        raise DecodeError(
            "unknown .npy version",
            expected="1.0, 2.0 or 3.0",
            got=f"{version[0]}.{version[1]}",
        )
    length_format, encoding = _VERSIONS[version]
    (length,) = struct.unpack_from(length_format, view, 8)
    start = 8 + struct.calcsize(length_format)
    if length > min(_MAX_HEADER, len(view) - start):
        raise DecodeError(
            "the .npy header is out of bounds",
            expected=f"at most {min(_MAX_HEADER, len(view) - start)} bytes",
            got=f"{length}",
        )
    return _parse_header(bytes(view[start : start + length]), encoding), start + length


def _parse_header(text: bytes, encoding: str) -> dict[str, Any]:
    try:
        fields = ast.literal_eval(text.decode(encoding).strip())
    except Exception as exc:  # the parser fails in many ways on what is no literal
        raise DecodeError("the .npy header is not a Python literal") from exc
    if not isinstance(fields, dict) or fields.keys() != _KEYS:
        raise DecodeError("wrong .npy header", expected=f"a dictionary of {sorted(_KEYS)}")
    if not isinstance(fields["fortran_order"], bool):
        raise DecodeError("wrong .npy header", expected="a boolean", path="fortran_order")
    return fields


def _read_dtype(descr: Any) -> np.dtype[Any]:
    if not isinstance(descr, str):
        raise DecodeError("wrong .npy header", expected="a simple type", path="descr")
    try:
        dtype = np.dtype(descr)
    except Exception as exc:  # TypeError, ValueError, SyntaxError, by what is wrong with it
        raise DecodeError("wrong .npy header", got=repr(descr), path="descr") from exc
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        raise DecodeError(
            "wrong .npy header",
            expected="a simple type (never pickled objects)",
            got=repr(descr),
            path="descr",
        )
    return dtype


def _read_shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise DecodeError("wrong .npy header", expected="a tuple of lengths", path="shape")
    return shape
