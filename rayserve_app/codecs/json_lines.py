"""JSON Lines: one JSON document per line, in UTF-8; blank lines are skipped.

Source: jsonlines.org. The media type is what the SageMaker SDK's JSONLinesSerializer sends.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from rayserve_app.codecs import json, lenient_json
from rayserve_app.errors import DecodeError, RequestTooLarge
from rayserve_app.types import Buffer

MEDIA_TYPE: Final = "application/jsonlines"


def decode(data: Buffer, *, max_items: int) -> list[Any]:
    """Decode into one value per line.

    Raises:
        DecodeError: a line is not JSON, and the path says which, counted from 0 with blank ones;
            or all of them together hold too much for one document.
        RequestTooLarge: more than `max_items` lines, blank ones among them counted.
    """
    raw = bytes(data)
    if json.count_values(raw) > json.MAX_VALUES:
        raise DecodeError("JSON has too many values", expected=f"at most {json.MAX_VALUES}")
    lines = raw.strip()
    if lines.count(b"\n") >= max_items:
        raise RequestTooLarge("Too many lines", expected=f"at most {max_items}")
    values = []
    for index, line in enumerate(lines.split(b"\n")):
        if not line or line.isspace():
            continue
        try:
            values.append(lenient_json.decode(line))
        except DecodeError as exc:
            raise exc.at(f"lines[{index}]") from exc.__cause__
    return values


def encode(values: Iterable[Any]) -> bytes:
    r"""Encode one value per line, each ended by "\n".

    Raises:
        PredictError: as for JSON, but NaN and infinities are tokens.
    """
    return b"".join(json.encode(value, with_nan=True) + b"\n" for value in values)
