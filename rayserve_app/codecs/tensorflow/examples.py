"""`tf.train.Example`s: as objects in classify and regress requests of TensorFlow Serving's REST
API, and serialised, as models that parse them take them.

Source: tensorflow/serving, util/json_tensor.cc, servables/tensorflow/util.cc, sentences of errors
included; tensorflow, core/example/example.proto and feature.proto.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from rayserve_app.codecs.tensorflow.document import as_bytes, is_base64, type_of, written
from rayserve_app.errors import DecodeError

Features: TypeAlias = dict[str, list[Any]]
"""A list for each feature, all `bytes` or `str`, all `int`, or all `float`."""

MAX_FLOAT: Final = float(np.finfo(np.float32).max)
INT64: Final = np.iinfo(np.int64)

# The kinds of `Feature`, as upstream calls them, with their fields' numbers.
_FIELDS: Final = {"bytes": 1, "float": 2, "int64": 3}
_KINDS: Final[Mapping[type, str]] = {bytes: "bytes", str: "bytes", float: "float", int: "int64"}

_LENGTH_DELIMITED: Final = 2
"""Protobuf's wire type of messages, bytes and packed numbers."""

MAX_FEATURES: Final = 200
"""Of one serialised example that is looked into."""


def read_examples(document: Mapping[str, Any]) -> list[Features]:
    """Return the features of a request's examples, those of its `context` among them.

    Raises:
        DecodeError: there are no examples, or one holds what a feature cannot.
    """
    context = _features(document["context"]) if "context" in document else {}
    if "examples" not in document:
        raise DecodeError(
            f"JSON Value: {written(document)} When method is classify, key 'examples' is expected"
            " and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise DecodeError(
            f"JSON Value: {written(document)} Expecting 'examples' value to be an list/array"
        )
    if not examples:
        raise DecodeError(f"JSON Value: {written(document)} 'examples' value is an empty array")
    return [context | _features(example) for example in examples]


def serialise(features: Mapping[str, Sequence[Any]]) -> bytes:
    """Return the serialised `tf.train.Example` of features."""
    entries = (
        _field(1, _field(1, name.encode()) + _field(2, _feature(values)))
        for name, values in features.items()
    )
    return _field(1, b"".join(entries))


def find_bytes(example: memoryview, names: Sequence[str]) -> memoryview | None:
    """Return the bytes that the first of these features of a serialised `tf.train.Example` holds,
    without a copy; None if the bytes are no such message, or there is no such feature of one
    value."""
    found: dict[str, memoryview] = {}
    try:
        ((_, features),) = _read(example, 1)
        for _, entry in _read(features, MAX_FEATURES):
            parts = dict(_read(entry, 2))
            name = str(parts[1], "utf-8")
            if name in names:
                ((kind, values),) = _read(parts[2], 1)
                if kind == _FIELDS["bytes"]:
                    ((_, found[name]),) = _read(values, 1)
    except (ValueError, LookupError):
        return None
    return next((found[name] for name in names if name in found), None)


def _features(value: Any) -> Features:
    if not isinstance(value, dict):
        raise DecodeError(f"Example must be JSON object but got JSON {type_of(value)}")
    return {name: _values(name, content) for name, content in value.items()}


def _values(name: str, content: Any) -> list[Any]:
    values = [
        _value(name, value) for value in (content if isinstance(content, list) else [content])
    ]
    kinds = dict.fromkeys(_KINDS[type(value)] for value in values)
    if len(kinds) > 1:
        raise DecodeError(
            f"Unexpected element type in feature: {name} expecting type: {next(iter(kinds))}"
        )
    return values


def _value(name: str, value: Any) -> Any:
    if is_base64(value):
        return as_bytes(value)
    if isinstance(value, str):
        return value
    if isinstance(value, int):  # and bool, which is 0 or 1 there
        if not INT64.min <= value <= INT64.max:
            raise DecodeError(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return int(value)
    if isinstance(value, float):
        if math.isfinite(value) and abs(value) > MAX_FLOAT:
            raise DecodeError(
                f"Cannot convert JSON value: {written(value)} to float without loss of precision."
            )
        return value
    raise DecodeError(f"Feature: {name} has element with unexpected JSON type: {type_of(value)}")


def _feature(values: Sequence[Any]) -> bytes:
    if not values:
        return b""
    kind = _KINDS[type(values[0])]
    if kind == "bytes":
        content = b"".join(_field(1, v.encode() if isinstance(v, str) else v) for v in values)
    elif kind == "float":
        content = _field(1, np.array(values, "<f4").tobytes())
    else:
        content = _field(1, b"".join(map(_varint, values)))
    return _field(_FIELDS[kind], content)


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | _LENGTH_DELIMITED]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Write an integer in groups of seven bits, negative ones as of 64 (protobuf, encoding.md)."""
    return bytes(_groups(value % 2**64))


def _groups(value: int) -> Iterator[int]:
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value


def _read(message: memoryview, most: int) -> list[tuple[int, memoryview]]:
    """Return the numbers and contents of a message's fields, all of which are messages, bytes or
    text (protobuf, encoding.md).

    Raises:
        ValueError, IndexError: not such a message, or one of more fields than `most`.
    """
    fields: list[tuple[int, memoryview]] = []
    start = 0
    while start < len(message):
        tag, start = _read_varint(message, start)
        size, start = _read_varint(message, start)
        if tag & 7 != _LENGTH_DELIMITED or size > len(message) - start or len(fields) == most:
            raise ValueError("not such a message")
        fields.append((tag >> 3, message[start : start + size]))
        start += size
    return fields


def _read_varint(message: memoryview, start: int) -> tuple[int, int]:
    """Return an integer and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
    raise ValueError("an integer of more than 64 bits")
