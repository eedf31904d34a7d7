"""Content codings of HTTP bodies: gzip and deflate (RFC 9110, section 8.4.1), both ways.

A gzip body may be of several members, and padded with zeros (RFC 1952, section 2.2).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

from rayserve_app.errors import DecodeError, RequestTooLarge, UnsupportedContentType
from rayserve_app.media_types import preferences
from rayserve_app.types import Buffer

CODINGS: Final = ("gzip", "deflate")

LEVEL: Final = 1
"""Answers are compressed while their clients wait: the fastest."""

ALIASES: Final = {"x-gzip": "gzip"}
"""RFC 9110, section 8.4.1.3."""

MAX_CODINGS: Final = 2
"""What one body may be coded with, one after another."""

_MIN_MEMBERS: Final = 1000
_WINDOW_BYTES: Final = 1 << 16
_GZIP_MARK: Final = b"\x1f\x8b"
_GZIP_BITS: Final = 16 + zlib.MAX_WBITS
_ANY_BITS: Final = 32 + zlib.MAX_WBITS
"""zlib then tells its own format and gzip's apart by itself."""


def normalized(content_encoding: str | None) -> str:
    """Return the codings that a header lists, in lower case and by their own names: `x-gzip` is
    gzip; `identity` for none."""
    names = ((each.strip().lower()) for each in (content_encoding or "").split(","))
    codings = [ALIASES.get(name, name) for name in names if name not in ("", "identity")]
    return ", ".join(codings) or "identity"


def decode(body: Buffer, coding: str, *, max_bytes: int) -> bytes:
    """Return the decoded body.

    Args:
        coding: some of CODINGS, as `normalized` returns them, in the order in which they were
            applied; or `identity`. `deflate` is zlib's format or, as some clients have it, the
            bare stream.
    Raises:
        DecodeError: not that coding, cut short, or followed by something else.
        RequestTooLarge: more than `max_bytes`, also on the way; no more than that is ever decoded.
        UnsupportedContentType: more than MAX_CODINGS.
    """
    if coding == "identity":
        return bytes(body)
    codings = coding.split(", ")
    if len(codings) > MAX_CODINGS:
        raise UnsupportedContentType(
            "Too many content codings", expected=f"at most {MAX_CODINGS}", got=str(len(codings))
        )
    decoded: Buffer = body
    for each in reversed(codings):
        decoded = _decode(decoded, each, max_bytes)
    return bytes(decoded)


def choose(accept_encoding: str | None) -> str:
    """Return the coding for an answer: the one of CODINGS with the greatest weight in
    `Accept-Encoding`, the first of equals, unless `identity` has a greater one; else `identity`."""
    best = ("identity", 0.0)
    for value, weight in preferences(accept_encoding):
        coding = ALIASES.get(value, value)
        if coding in (*CODINGS, "identity") and weight > best[1]:
            best = (coding, weight)
    return best[0]


def encode(buffers: Sequence[Buffer], coding: str) -> list[Buffer]:
    """Return the body in a coding: one of CODINGS, or `identity`."""
    if coding == "identity":
        return list(buffers)
    bits = _GZIP_BITS if coding == "gzip" else zlib.MAX_WBITS
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, bits)
    pieces: list[Buffer] = [compressor.compress(buffer) for buffer in buffers]
    return [*filter(len, pieces), compressor.flush()]


def _decode(body: Buffer, coding: str, max_bytes: int) -> bytes:
    view = memoryview(body)
    is_bare = coding == "deflate" and not _is_zlib(view)
    pieces: list[bytes] = []
    start, left = 0, max_bytes
    window = len(view)
    for _ in range(_MIN_MEMBERS + len(view) // 1024):
        decompressor = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else _ANY_BITS)
        while not decompressor.eof:
            given = view[start : start + window]
            if not given:
                raise DecodeError("The body ends too soon", expected=f"a whole {coding} stream")
            try:
                pieces.append(decompressor.decompress(given, left + 1))
            except zlib.error as exc:
                raise DecodeError(
                    "The body is not what Content-Encoding says", expected=coding
                ) from exc
            left -= len(pieces[-1])
            if left < 0:
                raise RequestTooLarge(
                    "The decoded body is too large",
                    expected=f"at most {max_bytes} bytes",
                    got="more",
                )
            start += len(given) - len(decompressor.unused_data)
        # What a member leaves is copied, so that others get less at once.
        window = _WINDOW_BYTES
        rest = view[start:]
        is_member = coding == "gzip" and bytes(rest[:2]) == _GZIP_MARK
        if not is_member and (coding != "gzip" or bytes(rest).strip(b"\0")) and rest:
            raise DecodeError(
                "Something follows the body's end",
                expected=f"a {coding} stream alone",
                got=f"{len(rest)} bytes more",
            )
        if not is_member:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    raise DecodeError("The gzip body has too many members")


def _is_zlib(body: Buffer) -> bool:
    """Return whether the bytes begin as zlib's format does (RFC 1950)."""
    return len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
