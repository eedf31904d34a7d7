"""Base64 text, RFC 4648 sections 4 (standard) and 5 (URL and filename safe).

Padding may be missing. Line breaks with the white space around them, which MIME's encoders write
(RFC 2045, section 6.8), and the head of a `data:` URL (RFC 2397) are skipped; every other foreign
character is refused (section 3.3), also a space, which a form makes of a `+`. Bits left over in the
last character are ignored.
"""

from __future__ import annotations

import re
import string
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
_ALPHANUMERIC = (string.ascii_letters + string.digits).encode()
_DIGITS = {
    "standard": _ALPHANUMERIC + b"+/",
    "urlsafe": _ALPHANUMERIC + b"-_",
    "any": _ALPHANUMERIC + b"+/-_",
}
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_BREAKS = b"\t\n\v\f\r"
_MIN_LINES = 1000
_URL_HEAD = re.compile(rb"\s*data:[^,]{0,200};base64,", re.IGNORECASE)


def decode(text: str | Buffer, *, alphabet: Alphabet = "any") -> bytes:
    """Decode base64 text, padded or not.

    Args:
        text: Characters, or their ASCII bytes.
        alphabet: `any` takes both alphabets, mixed or not.

    Raises:
        DecodeError: A foreign character (with its offset), an impossible length, wrong padding.
    """
    if alphabet != "urlsafe" and (decoded := decode_plain(text)) is not None:
        return decoded
    raw = digits = _without_frame(_ascii(text))
    urlsafe = alphabet != "standard" and (b"-" in raw or b"_" in raw)
    if (urlsafe or alphabet == "urlsafe") and (b"+" in raw or b"/" in raw):
        if alphabet == "urlsafe":
            raise _diagnose(text, digits, alphabet)
        raw, urlsafe = raw.translate(_TO_STANDARD), False
    if len(raw) % 4 and not raw.endswith(b"="):
        raw += b"=" * (-len(raw) % 4)
    try:
        return pybase64.b64decode(raw, b"-_" if urlsafe else None, validate=True)
    except ValueError as exc:
        raise _diagnose(text, digits, alphabet) from exc


def decode_plain(text: str | Buffer) -> bytes | None:
    """Decode padded text of the standard alphabet, which nearly all is: trying tells sooner than
    looking first. None for other text, of which nothing else is found out."""
    if len(text) % 4 == 0:
        with suppress(ValueError):
            return pybase64.b64decode(text, validate=True)
    return None


def encode(data: Buffer, *, urlsafe: bool = False) -> str:
    """Encode as padded base64 text, without line breaks."""
    return pybase64.b64encode_as_string(data, b"-_" if urlsafe else None)


def _without_frame(characters: bytes) -> bytes:
    """Return a text without line breaks and the head of a `data:` URL."""
    if head := _URL_HEAD.match(characters):
        characters = characters[head.end() :]
    if b" " not in characters:
        return characters.translate(None, _BREAKS)
    characters = characters.strip()
    if characters.count(b"\n") > _MIN_LINES + len(characters) // 32:
        return characters  # refused: it would take a step of Python for each
    return b"".join(line.strip().translate(None, _BREAKS) for line in characters.split(b"\n"))


def _diagnose(text: str | Buffer, characters: bytes, alphabet: Alphabet) -> DecodeError:
    """Find out what is wrong with a text, `characters` in ASCII without its frame, that did not
    decode."""
    digits = characters.rstrip(b"=")
    if foreign := digits.translate(None, _DIGITS[alphabet]):
        raw = _ascii(text)
        head = _URL_HEAD.match(raw)
        offset = raw.find(foreign[:1], head.end() if head else 0)
        character = text[offset] if isinstance(text, str) else chr(text[offset])
        return DecodeError(
            "not base64", expected=_EXPECTED[alphabet], got=f"{character!r} at offset {offset}"
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
        got=f"{len(characters) - len(digits)} '=' at its end",
    )


def _ascii(text: str | Buffer) -> bytes:
    """Return the text's bytes; what is not ASCII becomes "?", which is foreign to both alphabets,
    at the same offset."""
    return text.encode("ascii", "replace") if isinstance(text, str) else bytes(text)
