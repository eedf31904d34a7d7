"""AWS event streams: one message per frame, all numbers big-endian.

A frame is total length, length of the headers and the CRC-32 of these two; the headers; the
payload; the CRC-32 of all before it. Of the header types only strings are written, which is what
SageMaker's response stream has.
Source: smithy.io, "Amazon Event Stream Specification"; botocore 1.43, eventstream.py, reads them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

from rayserve_app.types import Buffer

MEDIA_TYPE: Final = "application/vnd.amazon.eventstream"

PART_BYTES: Final = 1 << 20
"""The payload of one event; botocore takes at most 24 MiB."""

_PRELUDE: Final = struct.Struct(">II")
_CRC: Final = struct.Struct(">I")
_STRING: Final = 7


def encode(headers: Mapping[str, str], payload: Buffer) -> list[Buffer]:
    """Encode one message as what precedes its payload, the payload itself, and its checksum."""
    head = b"".join(_encode_header(name, value) for name, value in headers.items())
    total = _PRELUDE.size + _CRC.size + len(head) + len(payload) + _CRC.size
    prelude = _PRELUDE.pack(total, len(head))
    start = prelude + _CRC.pack(zlib.crc32(prelude)) + head
    return [start, payload, _CRC.pack(zlib.crc32(payload, zlib.crc32(start)))]


def encode_events(event_type: str, buffers: Sequence[Buffer]) -> list[Buffer]:
    """Encode a body as events of PART_BYTES at most, without copying it; none if it is empty.

    Takes about a millisecond per megabyte, for the checksums.
    """
    headers = {
        ":message-type": "event",
        ":event-type": event_type,
        ":content-type": "application/octet-stream",
    }
    frames: list[Buffer] = []
    for buffer in buffers:
        view = memoryview(buffer)
        for start in range(0, len(view), PART_BYTES):
            frames += encode(headers, view[start : start + PART_BYTES])
    return frames


def _encode_header(name: str, value: str) -> bytes:
    """Encode one header: lengths are of one byte for the name, of two for the value."""
    name_bytes, value_bytes = name.encode(), value.encode()
    prefix = struct.pack(">B", len(name_bytes)) + name_bytes
    return prefix + struct.pack(">BH", _STRING, len(value_bytes)) + value_bytes
