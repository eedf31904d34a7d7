from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.codecs import tfrecord
from rayserve_app.errors import DecodeError, RequestTooLarge

GOLDEN = Path(__file__).parent / "golden"
IMAGES = [(GOLDEN / "packed_jpeg" / name).read_bytes() for name in ("0.jpg", "1.jpg")]
STREAM = (GOLDEN / "tfrecord" / "images.tfrecord").read_bytes()
EXAMPLES = (GOLDEN / "tfrecord" / "examples.tfrecord").read_bytes()
SECOND = 16 + len(IMAGES[0])
fast = settings(derandomize=True, deadline=None, max_examples=50)

CASTAGNOLI = 0x82F63B78


def checksum(data: bytes) -> int:
    """Return the masked CRC-32C, bit by bit (RFC 3720, B.4; record_writer.h)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (CASTAGNOLI if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def stream_of(*records: bytes) -> bytes:
    parts = []
    for record in records:
        length = struct.pack("<Q", len(record))
        parts += [length, struct.pack("<I", checksum(length))]
        parts += [record, struct.pack("<I", checksum(record))]
    return b"".join(parts)


def test_reads_what_tensorflow_wrote() -> None:
    assert tfrecord.decode(STREAM, max_items=2) == IMAGES


def test_reads_the_images_of_tensorflows_examples() -> None:
    assert tfrecord.decode(EXAMPLES, max_items=2) == IMAGES


@fast
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_reads_any_records(records: list[bytes]) -> None:
    assert tfrecord.decode(bytearray(stream_of(*records)), max_items=len(records)) == records


@pytest.mark.parametrize("stream", [STREAM, EXAMPLES])
def test_images_are_views_of_the_stream(stream: bytes) -> None:
    view = memoryview(b"head" + stream)[4:]
    assert all(image.obj is view.obj for image in tfrecord.decode(view, max_items=2))


def changed(place: int, stream: bytes = STREAM) -> bytes:
    return stream[:place] + bytes([stream[place] ^ 1]) + stream[place + 1 :]


@pytest.mark.parametrize(
    ("stream", "sentence"),
    [
        (b"", "stream is empty: expected at least one record$"),
        (STREAM + b"\0", r"expected 12 bytes of length and checksum, got 1 - at `\[2\]`$"),
        (STREAM[:-1], rf"{len(IMAGES[1]) + 4} bytes of data .* got {len(IMAGES[1]) + 3} - at `\[1"),
        (changed(0), r"checksum mismatch for the length of a TFRecord - at `\[0\]`$"),
        (changed(9), r"checksum mismatch for the length of a TFRecord - at `\[0\]`$"),
        (changed(SECOND + 7), r"checksum mismatch for the length of a TFRecord - at `\[1\]`$"),
        (changed(100), r"checksum mismatch for the data of a TFRecord - at `\[0\]`$"),
        (changed(-1 % len(STREAM)), r"checksum mismatch for the data of a TFRecord - at `\[1\]`$"),
        (stream_of(b"a")[:12], "expected 5 bytes of data and checksum, got 0"),
    ],
)
def test_refuses_what_is_cut_or_damaged(stream: bytes, sentence: str) -> None:
    with pytest.raises(DecodeError, match=sentence):
        tfrecord.decode(stream, max_items=8)


def test_a_length_past_any_body_is_refused() -> None:
    length = b"\xff" * 8
    with pytest.raises(DecodeError, match="expected 18446744073709551619 bytes of data"):
        tfrecord.decode(length + struct.pack("<I", checksum(length)) + b"a", max_items=1)


def test_stops_at_one_record_too_many() -> None:
    """What follows is not even looked at: here it would be an error of its own."""
    with pytest.raises(RequestTooLarge, match=r"expected at most 2$"):
        tfrecord.decode(STREAM + b"\xff" * 12, max_items=2)


def test_a_stream_whose_first_length_begins_as_a_bitmap_is_a_stream() -> None:
    record = bytes(0x4D42)
    assert stream_of(record).startswith(b"BM")
    assert tfrecord.is_stream(stream_of(record))
    assert not tfrecord.is_stream(b"BM" + bytes(100))
    assert not tfrecord.is_stream(b"BM")
    assert not tfrecord.is_stream(IMAGES[0])
    assert tfrecord.is_stream(STREAM)


def example(*entries: bytes) -> bytes:
    """Return a message of features, of fewer than 128 bytes."""
    features = b"".join(b"\x0a" + bytes([len(each)]) + each for each in entries)
    return b"\x0a" + bytes([len(features)]) + features


def entry(name: bytes, *values: bytes) -> bytes:
    content = b"".join(b"\x0a" + bytes([len(each)]) + each for each in values)
    feature = b"\x0a" + bytes([len(content)]) + content
    return b"\x0a" + bytes([len(name)]) + name + b"\x12" + bytes([len(feature)]) + feature


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (example(entry(b"image", b"a"), entry(b"image/encoded", b"b")), b"b"),
        (example(entry(b"other", b"a"), entry(b"image", b"b")), b"b"),
        (example(entry(b"other", b"a")), None),
        (example(entry(b"image", b"a", b"b")), None),
        (example(entry(b"image")), None),
        (example(entry(b"image", b"a"))[:-1], None),
        (example(b"\x12\x01a"), None),
        (b"\x0a\x80", None),
        (b"\x0a" + b"\xff" * 11, None),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7fa", None),
        (b"\x08\x01", None),
        (b"", None),
    ],
)
def test_what_is_no_example_of_one_image_is_passed_on(
    record: bytes, expected: bytes | None
) -> None:
    (found,) = tfrecord.decode(stream_of(record), max_items=1)
    assert found == (record if expected is None else expected)


@pytest.mark.parametrize(("place", "is_found"), [(199, True), (200, False)])
def test_only_so_many_features_are_looked_at(place: int, is_found: bool) -> None:
    image = entry(b"image", b"a")
    features = b"\x0a\4\x0a\2ab" * place + b"\x0a" + bytes([len(image)]) + image
    size = len(features)
    record = b"\x0a" + bytes([size & 0x7F | 0x80, size >> 7]) + features
    (found,) = tfrecord.decode(stream_of(record), max_items=1)
    assert found == (b"a" if is_found else record)


@fast
@given(st.binary(max_size=60))
def test_arbitrary_records_are_read_or_passed_on(record: bytes) -> None:
    (found,) = tfrecord.decode(stream_of(b"\x0a" + record), max_items=1)
    assert bytes(found) in b"\x0a" + record


@fast
@given(st.binary(), st.integers(0, 4))
def test_arbitrary_bytes_raise_invalid_request_at_most(stream: bytes, max_items: int) -> None:
    with pytest.raises((DecodeError, RequestTooLarge)):
        tfrecord.decode(STREAM + b"\0" + stream, max_items=max_items)


@fast
@given(st.integers(0, len(STREAM) - 1), st.integers(0, 7))
def test_no_bit_may_change(place: int, bit: int) -> None:
    stream = bytearray(STREAM)
    stream[place] ^= 1 << bit
    with pytest.raises(DecodeError):
        tfrecord.decode(stream, max_items=2)
