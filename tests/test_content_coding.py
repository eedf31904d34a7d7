"""Content codings, against Python's own gzip and zlib."""

from __future__ import annotations

import contextlib
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve_app.content_coding import choose, decode, encode
from rayserve_app.errors import DecodeError, InvalidRequest, RequestTooLarge

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
    ],
)
def test_the_answer_is_coded_as_the_client_accepts(header: str | None, coding: str) -> None:
    assert choose(header) == coding
