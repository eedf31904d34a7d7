"""AWS event streams, read by botocore."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve_app.codecs import event_stream

botocore = pytest.importorskip("botocore.eventstream")


def decode(stream: bytes) -> list[tuple[dict[str, str], bytes]]:
    buffer = botocore.EventStreamBuffer()
    buffer.add_data(stream)
    return [(message.headers, message.payload) for message in buffer]


def test_a_frame_is_as_the_specification_lays_it_out() -> None:
    frame = b"".join(event_stream.encode({"k": "value"}, b"payload"))
    header = b"\x01k\x07\x00\x05value"
    prelude = struct.pack(">II", 12 + len(header) + 7 + 4, len(header))
    body = prelude + struct.pack(">I", zlib.crc32(prelude)) + header + b"payload"
    assert frame == body + struct.pack(">I", zlib.crc32(body))


@given(
    st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=40), max_size=4),
    st.binary(max_size=200),
)
def test_botocore_reads_what_is_written(headers: dict[str, str], payload: bytes) -> None:
    frame = b"".join(event_stream.encode(headers, payload))
    assert decode(frame) == [(headers, payload)]


def test_a_body_is_cut_into_events_without_a_copy() -> None:
    large = bytes(range(256)) * 4096 * 3  # three parts
    frames = event_stream.encode_events("PayloadPart", [b"start", memoryview(large), b""])
    events = decode(b"".join(frames))
    assert [len(payload) for _, payload in events] == [5, 1 << 20, 1 << 20, 1 << 20]
    assert b"".join(payload for _, payload in events) == b"start" + large
    assert {tuple(headers.items()) for headers, _ in events} == {
        (
            (":message-type", "event"),
            (":event-type", "PayloadPart"),
            (":content-type", "application/octet-stream"),
        )
    }
    views = [frame for frame in frames if isinstance(frame, memoryview)]
    assert sum(view.obj is large for view in views) == 3


def test_an_empty_body_has_no_events() -> None:
    assert event_stream.encode_events("PayloadPart", [b""]) == []
