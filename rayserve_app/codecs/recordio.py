"""RecordIO streams of images, as MXNet writes them and SageMaker's batch transform sends them: a
record is an image file, or one behind MXNet's header, whose labels are left out.

A part of a record is the magic number, a word of flag (3 bits) and length (29), the data, and zeros
up to a multiple of 4; all words are little-endian. Data that hold the magic number themselves are
parted there, without it. There are no checksums. SageMaker's `application/x-recordio-protobuf`,
whose records are messages of arrays, is not read.
Source: dmlc-core, include/dmlc/recordio.h and src/recordio.cc; mxnet, python/mxnet/recordio.py.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from rayserve_app.codecs.image_header import is_image
from rayserve_app.errors import DecodeError, RequestTooLarge
from rayserve_app.types import Buffer

MEDIA_TYPE: Final = "application/x-recordio"

MAX_PARTS: Final = 100
"""Parts of one record. An image of 1 MB holds the magic number by chance once in 16,000."""

_MAGIC: Final = struct.pack("<I", 0xCED7230A)
_HEADER: Final = struct.Struct("<4sI")
_IMAGE_HEADER: Final = struct.Struct("<IfQQ")
_LABEL_BYTES: Final = 4


class _Flag(IntEnum):
    WHOLE = 0
    FIRST = 1
    MIDDLE = 2
    LAST = 3


class _Part(NamedTuple):
    flag: int
    data: memoryview
    size: int
    """With header and padding."""


def is_stream(data: Buffer) -> bool:
    """Return whether the bytes are a stream, damaged or not, rather than a bare image."""
    return not is_image(data)


def decode(data: Buffer, *, max_items: int) -> list[Buffer]:
    """Return the images of a stream; only those of several parts are copied. A record that is no
    image is passed on as it is.

    Raises:
        DecodeError: no magic number, a cut part, parts out of order, padding that is not of zeros,
            no record at all.
        RequestTooLarge: more than `max_items` records.
    """
    view = memoryview(data)
    images: list[Buffer] = []
    parts: list[memoryview] = []
    start = 0
    while start < len(view):
        path = f"[{len(images)}]"
        if len(images) == max_items:
            raise RequestTooLarge("too many records in the stream", expected=f"at most {max_items}")
        part = _read_part(view[start:], path)
        start += part.size
        if (part.flag in (_Flag.MIDDLE, _Flag.LAST)) != bool(parts):
            raise DecodeError("parts of a RecordIO record are out of order", path=path)
        if len(parts) == MAX_PARTS:
            raise DecodeError(
                "a RecordIO record has too many parts", expected=f"at most {MAX_PARTS}", path=path
            )
        parts.append(part.data)
        if part.flag in (_Flag.WHOLE, _Flag.LAST):
            images.append(_image_of(parts[0] if len(parts) == 1 else _MAGIC.join(parts)))
            parts = []
    if parts:
        raise DecodeError("the last RecordIO record has no end", path=f"[{len(images)}]")
    if not images:
        raise DecodeError("the RecordIO stream is empty", expected="at least one record")
    return images


def _read_part(view: memoryview, path: str) -> _Part:
    """Return the part at the start of the bytes."""
    if len(view) < _HEADER.size:
        raise _cut(f"{_HEADER.size} bytes of magic number and length", len(view), path)
    magic, word = _HEADER.unpack_from(view)
    if magic != _MAGIC:
        raise DecodeError(
            "not a RecordIO record",
            expected=f"magic number {_MAGIC.hex()}",
            got=magic.hex(),
            path=path,
        )
    flag, length = word >> 29, word & (1 << 29) - 1
    if flag not in iter(_Flag):
        raise DecodeError(
            "unknown flag of a RecordIO record", expected="0 to 3", got=str(flag), path=path
        )
    end = _HEADER.size + length
    size = end + -length % 4
    if size > len(view):
        raise _cut(
            f"{size - _HEADER.size} bytes of data and padding", len(view) - _HEADER.size, path
        )
    if any(view[end:size]):
        raise DecodeError(
            "wrong padding of a RecordIO record",
            expected="zeros",
            got=bytes(view[end:size]).hex(),
            path=path,
        )
    return _Part(flag, view[_HEADER.size : end], size)


def _image_of(record: Buffer) -> Buffer:
    """Return a record without MXNet's header, if an image stands behind that: a count of labels, a
    label that only holds if the count is 0, two numbers, and as many labels of 32 bits."""
    if is_image(record) or len(record) < _IMAGE_HEADER.size:
        return record
    label_count = _IMAGE_HEADER.unpack_from(record)[0]
    image = memoryview(record)[_IMAGE_HEADER.size + _LABEL_BYTES * label_count :]
    return image if is_image(image) else record


def _cut(expected: str, got: int, path: str) -> DecodeError:
    return DecodeError("the RecordIO stream is cut", expected=expected, got=str(got), path=path)
