"""Base64 text, RFC 4648 sections 4 (standard) and 5 (URL and filename safe).

Padding may be missing. Line breaks and every other foreign character are refused (section 3.3).
Bits left over in the last character are ignored.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Literal, TypeAlias

import pybase64

from rayserve_app.errors import DecodeError
from rayserve_app.types import Buffer

Alphabet: TypeAlias = Literal["standard", "urlsafe", "any"]

_EXPECTED = {
    "standard": "letters, digits, '+' and '/'",
    "urlsafe": "letters, digits, '-' and '_'",
    "any": "letters, digits and '+/' or '-_'",
}
_FOREIGN = {
    "standard": re.compile(r"[^A-Za-z0-9+/]"),
    "urlsafe": re.compile(r"[^A-Za-z0-9_-]"),
    "any": re.compile(r"[^A-Za-z0-9+/_-]"),
}
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


def decode(text: str | Buffer, *, alphabet: Alphabet = "any") -> bytes:
    """Decode base64 text, padded or not.

    Args:
        text: Characters, or their ASCII bytes.
        alphabet: `any` takes both alphabets, mixed or not.

    Raises:
        DecodeError: A foreign character (with its offset), an impossible length, wrong padding.
    """
    if alphabet != "urlsafe" and len(text) % 4 == 0:
        # Nearly all text is standard and padded: decoding it tells sooner than looking first.
        with suppress(ValueError):
            return pybase64.b64decode(text, validate=True)
    # What is not ASCII becomes "?", which is foreign to both alphabets, at the same offset.
    raw = text.encode("ascii", "replace") if isinstance(text, str) else bytes(text)
    urlsafe = alphabet != "standard" and (b"-" in raw or b"_" in raw)
    if (urlsafe or alphabet == "urlsafe") and (b"+" in raw or b"/" in raw):
        if alphabet == "urlsafe":
            raise _diagnose(text, alphabet)
        raw, urlsafe = raw.translate(_TO_STANDARD), False
    if len(raw) % 4 and not raw.endswith(b"="):
        raw += b"=" * (-len(raw) % 4)
    try:
        return pybase64.b64decode(raw, b"-_" if urlsafe else None, validate=True)
    except ValueError as exc:
        raise _diagnose(text, alphabet) from exc


def encode(data: Buffer, *, urlsafe: bool = False) -> str:
    """Encode as padded base64 text, without line breaks."""
    return pybase64.b64encode_as_string(data, b"-_" if urlsafe else None)


def _diagnose(text: str | Buffer, alphabet: Alphabet) -> DecodeError:
    """Find out what is wrong with a text that did not decode."""
    # latin-1 keeps the offset of every byte.
    characters = text if isinstance(text, str) else bytes(text).decode("latin-1")
    digits = characters.rstrip("=")
    if foreign := _FOREIGN[alphabet].search(digits):
        return DecodeError(
            "not base64",
            expected=_EXPECTED[alphabet],
            got=f"{foreign.group()!r} at offset {foreign.start()}",
        )
    if len(digits) % 4 == 1:
        return DecodeError(
            "not base64",
            expected="a length that leaves 0, 2 or 3 characters after groups of 4",
            got=f"{len(digits)} characters",
        )
    return DecodeError(
        "not base64",
        expected=f"no padding, or {-len(digits) % 4} '=' for {len(digits)} characters",
        got=f"{len(characters) - len(digits)} '=' at offset {len(digits)}",
    )
