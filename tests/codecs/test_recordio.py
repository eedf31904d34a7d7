from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.codecs import recordio
from rayserve_app.errors import DecodeError, RequestTooLarge

GOLDEN = Path(__file__).parent / "golden"
IMAGES = [(GOLDEN / "packed_jpeg" / name).read_bytes() for name in ("0.jpg", "1.jpg")]
STREAM = (GOLDEN / "recordio" / "bare.rec").read_bytes()
MAGIC = bytes.fromhex("0a23d7ce")
fast = settings(derandomize=True, deadline=None, max_examples=50)


def part(data: bytes, flag: int = 0) -> bytes:
    return MAGIC + struct.pack("<I", flag << 29 | len(data)) + data + bytes(-len(data) % 4)


@pytest.mark.parametrize("name", ["bare.rec", "images.rec"])
def test_reads_the_images_that_mxnet_wrote(name: str) -> None:
    """With its header and without one; of one label or of three."""
    stream = (GOLDEN / "recordio" / name).read_bytes()
    assert recordio.decode(stream, max_items=2) == IMAGES


def test_joins_the_records_that_mxnet_parted() -> None:
    stream = (GOLDEN / "recordio" / "magic.rec").read_bytes()
    records = [b"head" + MAGIC + MAGIC + b"tail.", MAGIC, b"x" + MAGIC]
    assert recordio.decode(stream, max_items=3) == records


@fast
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_reads_any_records(records: list[bytes]) -> None:
    stream = b"".join(map(part, records))
    assert recordio.decode(bytearray(stream), max_items=len(records)) == records


@fast
@given(st.lists(st.binary(max_size=5).map(lambda each: each * 4), min_size=2, max_size=5))
def test_joins_any_parts(parts: list[bytes]) -> None:
    flags = [1, *[2] * (len(parts) - 2), 3]
    stream = b"".join(map(part, parts, flags))
    assert recordio.decode(part(b"a") + stream, max_items=2) == [b"a", MAGIC.join(parts)]


@pytest.mark.parametrize("name", ["bare.rec", "images.rec"])
def test_images_are_views_of_the_stream(name: str) -> None:
    view = memoryview(b"head" + (GOLDEN / "recordio" / name).read_bytes())[4:]
    images = recordio.decode(view, max_items=2)
    assert all(isinstance(image, memoryview) and image.obj is view.obj for image in images)


@pytest.mark.parametrize(
    "record", [b"", b"\0" * 24, b"\0" * 23, struct.pack("<IfQQ", 1 << 31, 0, 0, 0) + IMAGES[0]]
)
def test_a_record_without_an_image_is_passed_on(record: bytes) -> None:
    assert recordio.decode(part(record), max_items=1) == [record]


@pytest.mark.parametrize(
    ("stream", "sentence"),
    [
        (b"", "stream is empty: expected at least one record$"),
        (STREAM + b"\0", r"8 bytes of magic number and length, got 1 - at `\[2\]`$"),
        (STREAM[:-1], r"expected 1008 bytes of data and padding, got 1007 - at `\[1\]`$"),
        (part(b"abc")[:-1], "expected 4 bytes of data and padding, got 3"),
        (part(b"abc")[:-1] + b"\1", r"padding .* expected zeros, got 01 - at `\[0\]`$"),
        (IMAGES[0], r"expected magic number 0a23d7ce, got ffd8ffe0 - at `\[0\]`$"),
        (STREAM + STREAM[1:], r"not a RecordIO record: .* - at `\[2\]`$"),
        (part(b"", 4), r"flag .* expected 0 to 3, got 4 - at `\[0\]`$"),
        (part(b"", 2), r"out of order - at `\[0\]`$"),
        (part(b"", 3), "out of order"),
        (part(b"", 1) + part(b""), "out of order"),
        (part(b"", 1) + part(b"", 1), "out of order"),
        (part(b"a") + part(b"", 1), r"has no end - at `\[1\]`$"),
        (part(b"", 1) + part(b"", 2) * 100, r"too many parts: expected at most 100 - at `\[0\]`$"),
        (MAGIC + b"\xff\xff\xff\x1f" + b"a", "expected 536870912 bytes of data and padding, got 1"),
    ],
)
def test_refuses_what_is_cut_or_damaged(stream: bytes, sentence: str) -> None:
    with pytest.raises(DecodeError, match=sentence):
        recordio.decode(stream, max_items=8)


def test_stops_at_one_record_too_many() -> None:
    """What follows is not even looked at: here it would be an error of its own."""
    with pytest.raises(RequestTooLarge, match=r"expected at most 2$"):
        recordio.decode(STREAM + b"\xff" * 12, max_items=2)


@fast
@given(st.binary(), st.integers(0, 4))
def test_arbitrary_bytes_raise_invalid_request_at_most(stream: bytes, max_items: int) -> None:
    try:
        records = recordio.decode(MAGIC + stream, max_items=max_items)
    except (DecodeError, RequestTooLarge):
        return
    assert 1 <= len(records) <= max_items
