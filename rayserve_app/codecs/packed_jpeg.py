"""Packed JPEG streams: a 4-byte big-endian length, then that many bytes, repeated.

The stream ends with its last byte or at a zero length, whatever follows that. What the images
hold is not looked at.
Source: the Python handler of the SageMaker TensorFlow Serving guide (protocols.md, 6.2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from rayserve_app.codecs.image_header import is_image
from rayserve_app.errors import DecodeError, RequestTooLarge
from rayserve_app.types import Buffer

MEDIA_TYPE: Final = "application/x-packed-jpeg"

_LENGTH = struct.Struct(">I")
_JPEG_START = b"\xff\xd8\xff"


def is_stream(data: Buffer) -> bool:
    """Return whether the bytes are a stream, damaged or not, rather than a bare image: as these
    begin, a stream's first length is over 1 GiB, the largest `max_body_mb`."""
    return not is_image(data)


def decode(data: Buffer, *, max_items: int) -> list[memoryview]:
    """Split a stream into its images, without a copy.

    Raises:
        DecodeError: A length past the end, a cut length, no image at all.
        RequestTooLarge: More than `max_items` images.
    """
    view = memoryview(data)
    images: list[memoryview] = []
    start = 0
    while start < len(view):
        length = _read_length(view, start, len(images))
        if length == 0:
            break
        if len(images) == max_items:
            raise RequestTooLarge("too many images in the stream", expected=f"at most {max_items}")
        start += _LENGTH.size
        if length > len(view) - start:
            raise _past_the_end(view, start, len(images), length)
        images.append(view[start : start + length])
        start += length
    if not images:
        raise DecodeError("the packed JPEG stream is empty", expected="at least one image")
    return images


def encode(images: Iterable[Buffer], *, end_marker: bool = False) -> bytes:
    """Join images to a stream, closed with a zero length if `end_marker`."""
    parts: list[Buffer] = []
    for image in images:
        parts += (_LENGTH.pack(len(image)), image)
    if end_marker:
        parts.append(_LENGTH.pack(0))
    return b"".join(parts)


def _read_length(view: memoryview, start: int, index: int) -> int:
    left = len(view) - start
    if left < _LENGTH.size:
        raise DecodeError(
            "the packed JPEG stream is cut",
            expected=f"{_LENGTH.size} bytes of length",
            got=f"{left}",
            path=f"[{index}]",
        )
    (length,) = _LENGTH.unpack_from(view, start)
    return int(length)


def _past_the_end(view: memoryview, start: int, index: int, length: int) -> DecodeError:
    bare = start == _LENGTH.size and view[: len(_JPEG_START)] == _JPEG_START
    return DecodeError(
        "the packed JPEG stream is cut",
        expected=f"{length} bytes of image",
        got=f"{len(view) - start}",
        path=f"[{index}]",
        remedy="This is a bare JPEG: put its length in front." if bare else None,
    )
