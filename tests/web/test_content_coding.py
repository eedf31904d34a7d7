"""Content codings, against Python's own gzip and zlib."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from time import process_time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve_app.errors import (
    DecodeError,
    InvalidRequest,
    RequestTooLarge,
    UnsupportedContentType,
)
from rayserve_app.web.content_coding import choose, decode, encode, normalized

BODY = b"abc" * 1000


def bare(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (gzip.compress(BODY), "gzip"),
        (zlib.compress(BODY), "deflate"),
        (bare(BODY), "deflate"),
        (BODY, "identity"),
        (gzip.compress(BODY[:7]) + gzip.compress(b"") + gzip.compress(BODY[7:]), "gzip"),
        (gzip.compress(BODY) + bytes(512), "gzip"),
        (zlib.compress(gzip.compress(BODY)), "gzip, deflate"),
        (gzip.compress(gzip.compress(BODY)), "gzip, gzip"),
    ],
)
def test_what_others_encode_is_decoded(body: bytes, coding: str) -> None:
    assert decode(body, coding, max_bytes=len(BODY)) == BODY


@given(pieces=st.lists(st.binary(max_size=100)))
def test_others_decode_what_is_encoded(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    assert gzip.decompress(b"".join(encode(pieces, "gzip"))) == whole
    assert zlib.decompress(b"".join(encode(pieces, "deflate"))) == whole
    assert b"".join(encode(pieces, "identity")) == whole


def test_a_bomb_is_refused_before_it_unfolds() -> None:
    with pytest.raises(RequestTooLarge, match="at most 1000 bytes"):
        decode(gzip.compress(bytes(10**8)), "gzip", max_bytes=1000)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_body_that_is_cut_short_or_something_else_is_refused(coding: str) -> None:
    whole = b"".join(encode([BODY], coding))
    for body in (whole[:-9], b"", b"{}", b"no such thing"):
        with pytest.raises(DecodeError):
            decode(body, coding, max_bytes=10**6)


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (gzip.compress(BODY) + b"more", "gzip"),
        (gzip.compress(BODY) + bytes(9) + b"more", "gzip"),
        (gzip.compress(BODY) + gzip.compress(BODY)[:-9], "gzip"),
        (gzip.compress(BODY) + b"\x1f\x8bmore", "gzip"),
        (zlib.compress(BODY) + b"more", "deflate"),
        (zlib.compress(BODY) + zlib.compress(BODY), "deflate"),
        (bare(BODY) + b"more", "deflate"),
    ],
)
def test_what_follows_the_last_member_is_refused(body: bytes, coding: str) -> None:
    with pytest.raises(DecodeError):
        decode(body, coding, max_bytes=10**6)


def test_members_are_bounded_together() -> None:
    body = gzip.compress(bytes(600)) * 2
    assert decode(body, "gzip", max_bytes=1200) == bytes(1200)
    with pytest.raises(RequestTooLarge, match="at most 1199 bytes"):
        decode(body, "gzip", max_bytes=1199)
    with pytest.raises(RequestTooLarge, match="at most 1000 bytes"):
        decode(gzip.compress(gzip.compress(bytes(10**8))), "gzip, gzip", max_bytes=1000)
    with pytest.raises(UnsupportedContentType, match="at most 2, got 3"):
        decode(b"", "gzip, gzip, gzip", max_bytes=1000)


def test_members_take_no_time_that_grows_with_their_square() -> None:
    started_at = process_time()
    with pytest.raises(DecodeError, match="too many members"):
        decode(gzip.compress(b"") * 1_000_000, "gzip", max_bytes=1000)
    assert process_time() - started_at < 10


def test_random_members_are_read_as_gzip_reads_them() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        parts = [random.bytes(int(random.integers(0, 200_000))) for _ in range(4)]
        body = b"".join(map(gzip.compress, parts))
        assert decode(body, "gzip", max_bytes=10**6) == gzip.decompress(body)


@pytest.mark.parametrize(
    ("header", "codings"),
    [
        (None, "identity"),
        ("", "identity"),
        ("X-GZip", "gzip"),
        ("gzip , identity", "gzip"),
        ("deflate,x-gzip", "deflate, gzip"),
        ("br", "br"),
    ],
)
def test_codings_have_one_name(header: str | None, codings: str) -> None:
    assert normalized(header) == codings


@given(body=st.binary(max_size=50), coding=st.sampled_from(["gzip", "deflate"]))
def test_no_body_raises_anything_else(body: bytes, coding: str) -> None:
    with contextlib.suppress(InvalidRequest):
        decode(body, coding, max_bytes=1000)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, "identity"),
        ("", "identity"),
        ("br", "identity"),
        ("br, gzip;q=0.5", "gzip"),
        ("deflate, gzip", "deflate"),
        ("gzip;q=0, deflate", "deflate"),
        ("x-gzip", "gzip"),
        ("deflate;q=0.5, gzip;q=0.8", "gzip"),
        ("gzip;q=0.5, identity", "identity"),
        ("identity;q=0.5, gzip", "gzip"),
        ("*", "identity"),
        ("gzip; q=0.00", "identity"),
    ],
)
def test_the_answer_is_coded_as_the_client_accepts(header: str | None, coding: str) -> None:
    assert choose(header) == coding
