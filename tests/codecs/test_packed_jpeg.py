from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.codecs import packed_jpeg
from rayserve_app.errors import DecodeError, RequestTooLarge

GOLDEN = Path(__file__).parent / "golden" / "packed_jpeg"
IMAGES = [(GOLDEN / name).read_bytes() for name in ("0.jpg", "1.jpg")]
STREAM = (GOLDEN / "two.bin").read_bytes()
fast = settings(derandomize=True, deadline=None, max_examples=50)


def test_reads_what_perl_packed() -> None:
    assert packed_jpeg.decode(STREAM, max_items=2) == IMAGES


def test_writes_what_perl_packed() -> None:
    assert packed_jpeg.encode(IMAGES) == STREAM
    assert packed_jpeg.encode(iter(IMAGES), end_marker=True) == STREAM + bytes(4)


@fast
@given(st.lists(st.binary(min_size=1), min_size=1, max_size=5), st.booleans(), st.binary())
def test_round_trip(images: list[bytes], end_marker: bool, rest: bytes) -> None:
    stream = packed_jpeg.encode(images, end_marker=end_marker) + (rest if end_marker else b"")
    assert packed_jpeg.decode(bytearray(stream), max_items=len(images)) == images


def test_images_are_views_of_the_stream() -> None:
    view = memoryview(b"head" + STREAM)[4:]
    images = packed_jpeg.decode(view, max_items=2)
    assert all(image.obj is view.obj for image in images)


@pytest.mark.parametrize(
    ("stream", "sentence"),
    [
        (b"", "stream is empty: expected at least one image$"),
        (bytes(4) + STREAM, "stream is empty"),
        (STREAM + b"\0", r"expected 4 bytes of length, got 1 - at `\[2\]`$"),
        (STREAM + b"\0\0\0", "got 3"),
        (STREAM[:-1], rf"{len(IMAGES[1])} bytes of image, got {len(IMAGES[1]) - 1} - at `\[1\]`$"),
        (STREAM + b"\0\0\0\5abcd", r"expected 5 bytes of image, got 4 - at `\[2\]`$"),
        (b"\xff\xff\xff\xffa", "expected 4294967295 bytes of image, got 1"),
        (IMAGES[0], "This is a bare JPEG: put its length in front"),
    ],
)
def test_refuses_what_is_cut(stream: bytes, sentence: str) -> None:
    with pytest.raises(DecodeError, match=sentence):
        packed_jpeg.decode(stream, max_items=8)


def test_stops_at_one_image_too_many() -> None:
    """What follows is not even looked at: here it would be an error of its own."""
    with pytest.raises(RequestTooLarge, match=r"expected at most 2$"):
        packed_jpeg.decode(STREAM + b"\xff\xff\xff\xff", max_items=2)


def test_end_marker_after_the_last_allowed_image_is_no_image() -> None:
    assert len(packed_jpeg.decode(STREAM + bytes(4), max_items=2)) == 2


@fast
@given(st.binary(), st.integers(0, 4))
def test_arbitrary_bytes_raise_invalid_request_at_most(stream: bytes, max_items: int) -> None:
    try:
        images = packed_jpeg.decode(stream, max_items=max_items)
    except (DecodeError, RequestTooLarge):
        return
    assert 1 <= len(images) <= max_items
    assert stream.startswith(packed_jpeg.encode(images))
