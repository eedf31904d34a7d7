"""TFRecord streams of images: a record is an image file, or a `tf.train.Example` that holds one.

A record is its length (8 bytes), the length's checksum (4), the data, the data's checksum (4), all
little-endian. Checksums are CRC-32C, rotated and shifted.
Source: tensorflow, core/lib/io/record_writer.h; core/lib/hash/crc32c.h.
"""

from __future__ import annotations

import struct
from typing import Final

import google_crc32c

from rayserve_app.codecs.image_header import is_image
from rayserve_app.codecs.tensorflow.examples import find_bytes
from rayserve_app.errors import DecodeError, RequestTooLarge
from rayserve_app.types import Buffer

MEDIA_TYPE: Final = "application/x-tfrecord"

IMAGE_FEATURES: Final = ("image/encoded", "image")
"""The features of an example that hold its image: what TensorFlow's models call it, and datasets
that have one thing alone."""

_HEADER: Final = struct.Struct("<QI")
_CHECKSUM: Final = struct.Struct("<I")
_MASK: Final = 0xA282EAD8
_CHUNK_BYTES: Final = 1 << 16


def is_stream(data: Buffer) -> bool:
    """Return whether the bytes are a stream, damaged or not, rather than a bare image: a length may
    begin as an image does, but its checksum does not fit by chance."""
    if not is_image(data):
        return True
    view = memoryview(data)[: _HEADER.size]
    return len(view) == _HEADER.size and _has_checksum(view[:8], _HEADER.unpack(view)[1])


def decode(data: Buffer, *, max_items: int) -> list[memoryview]:
    """Return the images of a stream, without a copy. A record that is neither an image nor an
    example with one is passed on as it is.

    Raises:
        DecodeError: a wrong checksum, a cut record, no record at all.
        RequestTooLarge: more than `max_items` records.
    """
    view = memoryview(data)
    images: list[memoryview] = []
    start = 0
    while start < len(view):
        if len(images) == max_items:
            raise RequestTooLarge("too many records in the stream", expected=f"at most {max_items}")
        record = _read_record(view[start:], f"[{len(images)}]")
        start += _HEADER.size + len(record) + _CHECKSUM.size
        images.append(_image_of(record))
    if not images:
        raise DecodeError("the TFRecord stream is empty", expected="at least one record")
    return images


def _read_record(view: memoryview, path: str) -> memoryview:
    """Return the data of the record at the start of the bytes."""
    if len(view) < _HEADER.size:
        raise _cut("of length and checksum", _HEADER.size, len(view), path)
    length, checksum = _HEADER.unpack_from(view)
    if not _has_checksum(view[:8], checksum):
        raise DecodeError("checksum mismatch for the length of a TFRecord", path=path)
    end = _HEADER.size + length
    if end + _CHECKSUM.size > len(view):
        needed = length + _CHECKSUM.size
        raise _cut("of data and checksum", needed, len(view) - _HEADER.size, path)
    record = view[_HEADER.size : end]
    if not _has_checksum(record, *_CHECKSUM.unpack_from(view, end)):
        raise DecodeError("checksum mismatch for the data of a TFRecord", path=path)
    return record


def _image_of(record: memoryview) -> memoryview:
    image = None if is_image(record) else find_bytes(record, IMAGE_FEATURES)
    return record if image is None else image


def _has_checksum(data: memoryview, expected: int) -> bool:
    crc = 0
    for start in range(0, len(data), _CHUNK_BYTES):  # the library takes bytes alone
        crc = google_crc32c.extend(crc, bytes(data[start : start + _CHUNK_BYTES]))
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF == expected


def _cut(what: str, expected: int, got: int, path: str) -> DecodeError:
    return DecodeError(
        "the TFRecord stream is cut", expected=f"{expected} bytes {what}", got=str(got), path=path
    )
