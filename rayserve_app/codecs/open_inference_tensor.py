"""Tensors of the Open Inference Protocol v2: datatypes, data in JSON, and data in binary.

Sources: kserve/open-inference-protocol, "Tensor Data"; triton-inference-server,
extension_binary_data.md and http_server.cc, for the binary form and the words of refusals.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from rayserve_app.codecs import json
from rayserve_app.codecs.plain_values import simplify, utf8
from rayserve_app.errors import DecodeError, NotAcceptable, PredictError
from rayserve_app.types import Array, Buffer

DTYPES: Final[Mapping[str, str]] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BF16": "bfloat16",
    "BYTES": "string",
}
"""The datatypes, and what specifications of models call them. BF16 is Triton's."""

DATATYPES: Final = {dtype: datatype for datatype, dtype in DTYPES.items()}

ITEM_BYTES: Final = {
    datatype: 2 if datatype == "BF16" else np.dtype(dtype).itemsize
    for datatype, dtype in DTYPES.items()
    if datatype != "BYTES"
}

BINARY_ONLY: Final = ("FP16", "BF16")
"""What JSON cannot carry (http_server.cc)."""

MAX_ELEMENTS: Final = 2**63 - 1
MAX_RANK: Final = 32

_LENGTH: Final = struct.Struct("<I")


def check_datatype(datatype: Any) -> str:
    """Return a datatype.

    Raises:
        DecodeError: there is no such datatype.
    """
    if not isinstance(datatype, str) or datatype not in DTYPES:
        known = ", ".join(DTYPES)
        raise DecodeError(
            "Unknown datatype", expected=f"one of {known}", got=repr(datatype), path="datatype"
        )
    return datatype


def check_shape(shape: Any, datatype: str) -> tuple[int, ...]:
    """Return a shape, of which nothing has been allocated yet.

    Raises:
        DecodeError: not a list of lengths, or more elements or bytes than there can be.
    """
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise DecodeError(
            "Unable to parse 'shape'", expected="a list of lengths", got=repr(shape)[:100]
        )
    if len(shape) > MAX_RANK:
        raise DecodeError("'shape' is too long", expected=f"at most {MAX_RANK} axes", path="shape")
    count = math.prod(shape)
    if count > MAX_ELEMENTS or max(shape, default=0) > MAX_ELEMENTS:
        raise DecodeError(
            f"The shape {shape} causes total element count to exceed maximum size of {MAX_ELEMENTS}"
        )
    if count * ITEM_BYTES.get(datatype, _LENGTH.size) > MAX_ELEMENTS:
        raise DecodeError(f"The shape {shape} causes byte size overflow for input")
    return tuple(shape)


def elements_from_json(data: Any, shape: tuple[int, ...]) -> list[str]:
    """Decode `data` of a BYTES tensor: strings in row-major order, nested in any way or flat.

    Raises:
        DecodeError: more or fewer than the shape has, or no strings.
    """
    return _values(data, "BYTES", shape)


def numbers_from_json(data: Any, datatype: str, shape: tuple[int, ...]) -> Array:
    """Decode `data` of any other tensor: an array of the shape.

    Raises:
        DecodeError: more or fewer values than the shape has, or values of another kind or out of
            range.
    """
    if datatype in BINARY_ONLY:
        raise DecodeError(
            f"receiving {datatype} data via JSON is not supported. Please use the binary data "
            "format for input"
        )
    flat = _values(data, datatype, shape)
    if datatype.startswith("FP"):
        try:
            with np.errstate(over="raise"):
                array: Array = np.array(flat, np.float64).astype(DTYPES[datatype])
        except FloatingPointError as exc:
            raise DecodeError(f"A number is out of the range of {datatype}") from exc
        return array.reshape(shape)
    return np.array(flat, DTYPES[datatype]).reshape(shape)


def elements_from_binary(data: Buffer, shape: tuple[int, ...]) -> list[memoryview]:
    """Decode the binary form of a BYTES tensor: of each element a length of 4 bytes and as many
    bytes, of which the result is a view.

    Raises:
        DecodeError: more or fewer elements than the shape has.
    """
    view, count = memoryview(data), math.prod(shape)
    elements: list[memoryview] = []
    start = 0
    # Every element takes 4 bytes at least, whatever count the shape says.
    while start + _LENGTH.size <= len(view) and len(elements) < count:
        (length,) = _LENGTH.unpack_from(view, start)
        start += _LENGTH.size + length
        elements.append(view[start - length : start])
    if len(elements) != count or start != len(view):
        raise DecodeError(
            "The binary data does not match the shape",
            expected=f"{count} elements of BYTES, each a length of 4 bytes and its bytes",
            got=f"{len(view)} bytes",
        )
    return elements


def numbers_from_binary(data: Buffer, datatype: str, shape: tuple[int, ...]) -> Array:
    """Decode the binary form of any other tensor: little-endian, row-major.

    Returns:
        A read-only view of `data`, of the shape; of BF16 and BOOL a copy, as float32 and bool.

    Raises:
        DecodeError: more or fewer bytes than the shape needs.
    """
    size = math.prod(shape) * ITEM_BYTES[datatype]
    if len(data) != size:
        raise DecodeError(
            "The binary data does not match the shape",
            expected=f"{size} bytes for {datatype} {list(shape)}",
            got=str(len(data)),
        )
    if datatype == "BF16":
        halves = np.frombuffer(data, "<u2").astype(np.uint32)
        floats: Array = (halves << 16).view(np.float32)
        return floats.reshape(shape)
    if datatype == "BOOL":
        # A byte other than 0 and 1 is no bool of numpy's.
        bools: Array = np.frombuffer(data, np.uint8) != 0
        return bools.reshape(shape)
    dtype = np.dtype(DTYPES[datatype]).newbyteorder("<")
    array: Array = np.frombuffer(data, dtype).reshape(shape)
    array.flags.writeable = False
    return array


def as_objects(elements: Sequence[str | Buffer], shape: tuple[int, ...]) -> Array:
    """Return the elements of a BYTES tensor, in row-major order, as an array of `bytes` of
    `shape`."""
    array = np.empty(len(elements), dtype=object)
    for index, element in enumerate(elements):
        array[index] = element.encode() if isinstance(element, str) else bytes(element)
    return array.reshape(shape)


def datatype_of(array: Array) -> str:
    """Return the datatype of a model's result of any shape: arrays of objects and text are BYTES.

    Raises:
        PredictError: there is none for its type.
    """
    if array.dtype.kind in "OSU":
        return "BYTES"
    name = array.dtype.name
    if name not in DATATYPES:
        raise PredictError("The result has no datatype of the protocol", got=name)
    return DATATYPES[name]


def to_json(array: Array) -> Any:
    """Return the values of an array of any shape as `json.encode` takes them: (count,), in
    row-major order. Objects other than text are JSON texts.

    Raises:
        NotAcceptable: FP16 and BF16, and bytes that are no text.
    """
    datatype = datatype_of(array)
    if datatype in BINARY_ONLY:
        raise NotAcceptable(
            f"sending {datatype} data via JSON is not supported. Please use the binary data format "
            "for output"
        )
    if datatype != "BYTES":
        return array.reshape(-1)
    try:
        return [bytes(_as_bytes(value)).decode() for value in array.reshape(-1).tolist()]
    except UnicodeDecodeError as exc:
        raise NotAcceptable(
            "The bytes are not text, which JSON needs", remedy="Ask for `binary_data`."
        ) from exc


def to_binary(array: Array) -> Buffer:
    """Return the binary form of an array of any shape, in row-major order: of a contiguous array of
    numbers its own memory, without a copy."""
    if datatype_of(array) == "BYTES":
        values = [_as_bytes(value) for value in array.reshape(-1).tolist()]
        return b"".join(part for value in values for part in (_LENGTH.pack(len(value)), value))
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    # Of empty arrays memoryview makes no bytes.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b""


def _values(data: Any, datatype: str, shape: tuple[int, ...]) -> list[Any]:
    """Return the values of `data`, as many as the shape has and of the datatype's kind."""
    flat: list[Any] = []
    _flatten(data if isinstance(data, list) else [data], flat)
    if len(flat) != math.prod(shape):
        raise DecodeError(
            "Shape does not match true shape of 'data' field",
            expected=f"{math.prod(shape)} values for {list(shape)}",
            got=str(len(flat)),
        )
    _check_kinds(flat, datatype)
    return flat


def _flatten(values: list[Any], flat: list[Any]) -> None:
    # As deep as JSON may nest, json.MAX_DEPTH.
    if list not in set(map(type, values)):
        flat += values
        return
    for value in values:
        if isinstance(value, list):
            _flatten(value, flat)
        else:
            flat.append(value)


def _check_kinds(flat: list[Any], datatype: str) -> None:
    kinds: set[type] = {int}
    if datatype == "BYTES":
        kinds = {str}
    elif datatype == "BOOL":
        kinds = {bool}
    elif datatype.startswith("FP"):
        kinds = {int, float}
    if odd := set(map(type, flat)) - kinds:
        raise DecodeError(
            f"Not a value of {datatype}",
            expected=" or ".join(sorted(kind.__name__ for kind in kinds)),
            got=odd.pop().__name__,
        )
    if kinds == {int} and flat:
        bounds = np.iinfo(DTYPES[datatype])
        if min(flat) < bounds.min or max(flat) > bounds.max:
            raise DecodeError(f"An integer is out of the range of {datatype}")


def _as_bytes(value: Any) -> Buffer:
    value = simplify(value)
    if isinstance(value, bytes):
        return value
    return utf8(value).encode() if isinstance(value, str) else json.encode(value, with_nan=True)
