"""Content codings of HTTP bodies: gzip and deflate (RFC 9110, section 8.4.1), both ways."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

from rayserve_app.errors import DecodeError, RequestTooLarge
from rayserve_app.types import Buffer

CODINGS: Final = ("gzip", "deflate")

LEVEL: Final = 1
"""Answers are compressed while their clients wait: the fastest."""

_GZIP_BITS: Final = 16 + zlib.MAX_WBITS
_ANY_BITS: Final = 32 + zlib.MAX_WBITS
"""zlib then tells its own format and gzip's apart by itself."""


def decode(body: Buffer, coding: str, *, max_bytes: int) -> bytes:
    """Return the decoded body.

    Args:
        coding: one of CODINGS, or `identity`. `deflate` is zlib's format or, as some clients have
            it, the bare stream.
    Raises:
        DecodeError: not that coding, or cut short.
        RequestTooLarge: more than `max_bytes`; no more than that is ever decoded.
    """
    if coding == "identity":
        return bytes(body)
    is_bare = coding == "deflate" and not _is_zlib(body)
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else _ANY_BITS)
    try:
        decoded = decompressor.decompress(body, max_bytes + 1)
    except zlib.error as exc:
        raise DecodeError("The body is not what Content-Encoding says", expected=coding) from exc
    if len(decoded) > max_bytes:
        raise RequestTooLarge(
            "The decoded body is too large", expected=f"at most {max_bytes} bytes", got="more"
        )
    if not decompressor.eof:
        raise DecodeError("The body ends too soon", expected=f"a whole {coding} stream")
    return decoded


def choose(accept_encoding: str | None) -> str:
    """Return the coding for an answer: the first of CODINGS that `Accept-Encoding` names with a
    weight above 0, else `identity`."""
    for part in (accept_encoding or "").split(","):
        coding, _, parameters = part.partition(";")
        weight = parameters.strip().removeprefix("q=")
        if coding.strip().lower() in CODINGS and weight not in ("0", "0.0", "0.00", "0.000"):
            return coding.strip().lower()
    return "identity"


def encode(buffers: Sequence[Buffer], coding: str) -> list[Buffer]:
    """Return the body in a coding: one of CODINGS, or `identity`."""
    if coding == "identity":
        return list(buffers)
    bits = _GZIP_BITS if coding == "gzip" else zlib.MAX_WBITS
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, bits)
    pieces: list[Buffer] = [compressor.compress(buffer) for buffer in buffers]
    return [*filter(len, pieces), compressor.flush()]


def _is_zlib(body: Buffer) -> bool:
    """Return whether the bytes begin as zlib's format does (RFC 1950)."""
    return len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
