"""JSON, RFC 8259, through orjson.

JSON has no NaN and no infinities. They are refused, both ways, unless a caller wants to write the
tokens `NaN`, `Infinity` and `-Infinity`, as Python's `json` does. Bytes are text, or `{"b64"}`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice, zip_longest
from typing import Any

import numpy as np
import orjson

from rayserve_app.codecs import image_header
from rayserve_app.codecs.plain_values import simplify, text_of, with_text
from rayserve_app.errors import DecodeError, PredictError
from rayserve_app.types import Array, Buffer

MAX_DEPTH = 64

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS
# orjson writes null for NaN and infinities, and NaT as a time.
_NO_TIME, _NO_TIME_NS = b'"1970-01-01T', b'"1677-09-21T'
_TOKENS = {"nan": b"NaN", "inf": b"Infinity", "-inf": b"-Infinity"}
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))


MAX_VALUES = 1_000_000
"""Arrays, objects and strings in one document: each becomes an object of a hundred bytes."""

LONG_BYTES = 1 << 14
AROUND_BYTES = 1 << 10
"""What may stand around a string that is nearly all of a document of LONG_BYTES or more."""

STAND_IN = "\0"
"""No string of a document without escapes holds a control character."""

_STAND_IN_JSON = b"\\u0000"

BLOCK_SIZE = 1 << 14
"""Elements of an array that are written at once, in half a millisecond."""

PLAIN_BYTES = 1 << 18
PLAIN_VALUES = 256
"""Documents up to this length, with up to so many commas and without escapes, are worth looking
whether they are mostly one long string."""

DENSE_BYTES = 1 << 12
VALUE_BYTES = 4
CONTAINER_BYTES = 128
"""Documents up to this length take as long to read as so many more bytes for each of their values,
arrays and objects, which may be items."""


def decode(data: Buffer | str) -> Any:
    """Decode one JSON document of at most MAX_DEPTH nested arrays and objects.

    Raises:
        DecodeError: Not JSON (with the position), not UTF-8, nested too deeply.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
    # What is wrong with a document is found in the whole of it, and its place with it.
    with suppress(DecodeError, UnicodeDecodeError):
        if found := decode_around(raw):
            value, content = found
            return _put_back(value, _text(content))
    return _decode(raw)


def decode_around(raw: bytes) -> tuple[Any, memoryview] | None:
    """Decode a document that is nearly all one long string, such as an image in base64, without
    that string: orjson looks at every byte, and to make a `str` takes longer than to decode it.

    Returns:
        The value with STAND_IN where the string is, and the content of that, which may hold what
        JSON's strings do not; None for other documents.

    Raises:
        DecodeError: What is around it is not JSON.
    """
    span = _long_string(raw)
    if span is None:
        return None
    start, end = span
    value = _decode(b"".join((raw[:start], _STAND_IN_JSON, raw[end:])))
    return value, memoryview(raw)[start:end]


def decode_object(data: Buffer | str) -> dict[str, Any]:
    """Decode one JSON object.

    Raises:
        DecodeError: As for `decode`, or another kind of value.
    """
    value = decode(data)
    if not isinstance(value, dict):
        raise DecodeError("wrong kind of JSON", expected="an object", got=_kind(value))
    return value


def work_bytes(data: Buffer) -> int:
    """Return how much there is to do to decode and read a document, as the length of one of short
    values. A long string, such as an image in base64, takes less than a sixtieth as long as its
    length says; what has many arrays, objects or values takes longer."""
    if len(data) > PLAIN_BYTES:
        return len(data)
    raw = bytes(data)
    span = _long_string(raw)
    around = raw[: span[0]] + raw[span[1] :] if span else raw
    values = VALUE_BYTES * _count(around, b",")
    containers = CONTAINER_BYTES * (_count(around, b"[") + _count(around, b"{"))
    if values <= VALUE_BYTES * PLAIN_VALUES and (span or b"\\" not in raw):
        return len(raw) // 64 + values + containers
    return len(raw) if len(raw) > DENSE_BYTES else len(raw) + values + containers


def _count(raw: bytes, character: bytes) -> int:
    """Return how often there is a character, up to PLAIN_VALUES and one more, at the speed of
    memchr."""
    count, position = 0, raw.find(character)
    while position >= 0 and count <= PLAIN_VALUES:
        count += 1
        position = raw.find(character, position + 1)
    return count


def encode(value: Any, *, with_nan: bool = False) -> bytes:
    """Encode compactly: numpy arrays as nested arrays, numpy scalars as their values, and whatever
    else is returned as `plain_values` says.

    Args:
        with_nan: Whether NaN and infinities are written, as tokens that JSON lacks.

    Raises:
        PredictError: A float that is not finite, or a type that has no form (with its path).
    """
    try:
        text = _dump(value)
        if not (b"null" in text or _NO_TIME in text or _NO_TIME_NS in text):
            return text
    except TypeError:
        pass  # what orjson does not write, or where it is, is found below
    try:
        return _dump(_spelled(value, with_nan=with_nan))
    except TypeError as exc:
        raise PredictError(f"a result cannot be written as JSON: {exc.__cause__ or exc}") from exc


def _too_deep() -> DecodeError:
    return DecodeError("JSON is nested too deeply", expected=f"at most {MAX_DEPTH} levels")


def count_values(raw: bytes) -> int:
    """Return how many arrays, objects and strings there are, or more: strings may hold brackets."""
    return raw.count(b"[") + raw.count(b"{") + raw.count(b'"') // 2


def _many_openers(raw: bytes) -> bool:
    """Return whether nesting deeper than MAX_DEPTH is possible at all, at the speed of memchr."""
    count = 0
    for opener in (b"[", b"{"):
        position = raw.find(opener)
        while position >= 0:
            count += 1
            if count > MAX_DEPTH:
                return True
            position = raw.find(opener, position + 1)
    return False


def _depth(raw: bytes) -> int:
    """Return how deeply the valid JSON text that starts with `raw` nests."""
    if b"\\" in raw:
        # Pairs first, so that the backslash before a quote is one that escapes it.
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(raw.translate(None, _NOT_STRUCTURE).split(b'"')[::2])
    # Bit 1 is set in "[" and "{", and clear in "]" and "}".
    steps = (np.frombuffer(outside_strings, np.int8) & 2) - np.int8(1)
    return int(np.cumsum(steps, dtype=np.int64).max(initial=0))


def _decode(raw: bytes) -> Any:
    many_openers = _many_openers(raw)
    # The head alone refuses the usual attack (megabytes of "[") at once.
    if many_openers and _depth(raw[:65536]) > MAX_DEPTH:
        raise _too_deep()
    if len(raw) > MAX_VALUES and count_values(raw) > MAX_VALUES:
        raise DecodeError("JSON has too many values", expected=f"at most {MAX_VALUES}")
    if many_openers and _depth(raw) > MAX_DEPTH:
        raise _too_deep()
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        name = image_header.evident_format(raw)
        remedy = f"It is a {name} image, which JSON holds in base64" if name else None
        raise DecodeError(f"not JSON: {exc}", remedy=remedy) from exc


def _text(content: memoryview) -> str:
    """Return the string of this content without escapes.

    Raises:
        DecodeError, UnicodeDecodeError: Not the content of a string, or not ASCII.
    """
    if np.frombuffer(content, np.uint8).min() < ord(" "):
        raise DecodeError("not JSON: a control character in a string")
    return str(content, "ascii")


def _long_string(raw: bytes) -> tuple[int, int] | None:
    """Return where the content of a string begins and ends that is all of a document of LONG_BYTES
    but AROUND_BYTES, if there is one and the document has no escapes."""
    if len(raw) < LONG_BYTES or b"\\" in raw:
        return None
    least = len(raw) - AROUND_BYTES
    # Without escapes, every second quotation mark ends a string.
    start = raw.find(b'"', 0, AROUND_BYTES) + 1
    while start:
        end = raw.find(b'"', start)
        if end - start >= least:
            return start, end
        start = raw.find(b'"', end + 1, AROUND_BYTES) + 1 if end >= 0 else 0
    return None


def _put_back(value: Any, text: str) -> Any:
    """Return the value with the text where its stand-in is."""
    if value == STAND_IN:
        return text
    if isinstance(value, list):
        return [_put_back(element, text) for element in value]
    if isinstance(value, dict):
        return {_put_back(key, text): _put_back(each, text) for key, each in value.items()}
    return value


def _dump(value: Any) -> bytes:
    if _holds_large_array(value):
        return orjson.dumps(value, default=_in_blocks, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    try:
        return orjson.dumps(value, default=_plain, option=_OPTIONS)
    except orjson.JSONEncodeError as exc:
        if "endian" not in str(exc):
            raise
        # orjson hands arrays of foreign byte order to nobody, unless it knows no arrays at all.
        return orjson.dumps(value, default=_in_blocks, option=orjson.OPT_PASSTHROUGH_DATACLASS)


def _holds_large_array(value: Any, depth: int = 0) -> bool:
    """Return whether there is one among the first values of what nests no deeper than an answer."""
    if isinstance(value, np.ndarray):
        return value.size > BLOCK_SIZE and _is_plain(value)
    if depth > 3 or not isinstance(value, dict | list | tuple):
        return False
    for each in islice(value.values() if isinstance(value, dict) else value, 4):
        if _holds_large_array(each, depth + 1):
            return True
    return False


def _in_blocks(value: Any) -> Any:
    if isinstance(value, np.ndarray) and _is_plain(value):
        native = value.astype(value.dtype.newbyteorder("="), order="C", copy=False)
        return orjson.Fragment(b"".join(_blocks(native)))
    if isinstance(value, np.ndarray | np.generic):
        return orjson.Fragment(_dump_at_once(value))
    return _plain(value)


def _blocks(array: Array) -> Iterator[bytes]:
    """Write an array piece by piece: no other thread runs while one is written."""
    if array.size <= BLOCK_SIZE or not array.ndim:
        yield _dump_at_once(array)
        return
    step = max(1, BLOCK_SIZE * len(array) // array.size)
    for start in range(0, len(array), step):
        yield b"," if start else b"["
        if step == 1 and array.ndim > 1:
            yield from _blocks(array[start])
        else:
            yield _dump_at_once(array[start : start + step])[1:-1]
    yield b"]"


def _dump_at_once(value: Any) -> bytes:
    return orjson.dumps(value, default=_plain, option=_OPTIONS)


def _plain(value: Any) -> Any:
    """Return what orjson can write in place of a value that it cannot."""
    found = simplify(value)
    if isinstance(found, np.ndarray):
        return _plain_array(found)
    if isinstance(found, bytes):
        return text_of(found)
    if found is value:
        raise TypeError(f"type {type(value).__qualname__}")
    return found


def _plain_array(array: Array) -> Any:
    array = with_text(array)
    if array.dtype == object or not array.ndim:
        return array[()] if not array.ndim else array.tolist()
    return np.ascontiguousarray(array)


def _is_plain(array: Array) -> bool:
    return array.dtype.kind in "biuf" and array.dtype.itemsize <= 8


def _spelled(value: Any, *, with_nan: bool, depth: int = 0) -> Any:
    """Return a value in which there is nothing left that orjson writes wrongly or not at all."""
    if depth > MAX_DEPTH:
        raise PredictError("a result is nested too deeply", expected=f"at most {MAX_DEPTH} levels")
    value = simplify(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "f" and value.dtype.itemsize <= 8:
            return _spelled_floats(value, with_nan=with_nan)
        if value.dtype.kind in "biu":
            return value
        value = with_text(value).tolist()
    if isinstance(value, bytes):
        return text_of(value)
    if isinstance(value, float | np.floating) and not math.isfinite(value):
        return _spelled_floats(np.asarray(value), with_nan=with_nan)
    if type(value) is int and not -(1 << 63) <= value < 1 << 64:
        return orjson.Fragment(str(value))
    if isinstance(value, dict):
        steps = [(str(key), key, each) for key, each in value.items()]
    elif isinstance(value, list | tuple):
        steps = [(f"[{index}]", index, each) for index, each in enumerate(value)]
    else:
        return value
    found = []
    for place, key, each in steps:
        try:
            found.append((key, _spelled(each, with_nan=with_nan, depth=depth + 1)))
        except PredictError as exc:
            raise exc.at(place) from exc.__cause__
    return dict(found) if isinstance(value, dict) else [each for _, each in found]


def _spelled_floats(array: Array, *, with_nan: bool) -> Any:
    is_odd = ~np.isfinite(array)
    if not is_odd.any():
        return array
    if not with_nan:
        place = np.unravel_index(is_odd.argmax(), array.shape)
        raise PredictError(
            "a result cannot be written as JSON",
            got="NaN or infinity",
            path="".join(f"[{index}]" for index in place),
        )
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
    text = b"".join(_blocks(native)) if array.ndim else b"null"
    tokens = (_TOKENS[str(each)] for each in array[is_odd].tolist())
    pieces = zip_longest(text.split(b"null"), tokens, fillvalue=b"")
    return orjson.Fragment(b"".join(chain.from_iterable(pieces)))


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
