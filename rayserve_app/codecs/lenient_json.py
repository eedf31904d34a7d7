"""JSON in which NaN, Infinity and Inf are numbers, as Python's `json` and RapidJSON may take it.

Source: rapidjson/reader.h, kParseNanAndInfFlag; Python's documentation of `json`.
"""

from __future__ import annotations

import json as standard_json
import re
from typing import Any, Final

from rayserve_app.codecs import json
from rayserve_app.errors import DecodeError
from rayserve_app.types import Buffer

# Strings match first, closed or not, so that the search never goes back.
_TOKENS: Final = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|-?(?:NaN|Inf(?:inity)?)', re.DOTALL | re.ASCII
)


def decode(data: Buffer | str) -> Any:
    """Decode one document, with the limits of JSON's own.

    Raises:
        DecodeError: as for JSON; its cause is a JSONDecodeError if that knows the place.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
    try:
        return json.decode(raw)
    except DecodeError as exc:
        is_syntax = isinstance(exc.__cause__, standard_json.JSONDecodeError)
        if not is_syntax or (b"NaN" not in raw and b"Inf" not in raw):
            raise
    # Everything else must be JSON as orjson reads it; and offsets stay what they are.
    json.decode(_TOKENS.sub(_as_zero, raw))
    try:
        return standard_json.loads(_TOKENS.sub(_as_python, raw), parse_int=_integer)
    except standard_json.JSONDecodeError as exc:
        raise DecodeError(f"not JSON: {exc}") from exc


def decode_object(data: Buffer | str) -> dict[str, Any]:
    """Decode one JSON object.

    Raises:
        DecodeError: as for `decode`, or another kind of value.
    """
    value = decode(data)
    if not isinstance(value, dict):
        raise DecodeError("wrong kind of JSON", expected="an object", got=type(value).__name__)
    return value


def _as_zero(match: re.Match[bytes]) -> bytes:
    token = match[0]
    return token if token.startswith(b'"') else b"0".ljust(len(token))


def _as_python(match: re.Match[bytes]) -> bytes:
    token = match[0]
    if token.startswith(b'"'):
        return token
    if token.endswith(b"NaN"):
        return b"NaN"
    return b"-Infinity" if token.startswith(b"-") else b"Infinity"


def _integer(digits: str) -> int | float:
    """Read an integer as orjson does, which makes those over 64 bits floats."""
    return json.decode(digits)  # type: ignore[no-any-return]
