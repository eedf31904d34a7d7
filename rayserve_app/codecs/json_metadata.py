"""An encoded image and what is known of it, as one JSON object.

`{"data": "<base64>", "format": "png", ...}`: every key but `data` is metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rayserve_app.codecs import base64, json
from rayserve_app.errors import DecodeError
from rayserve_app.types import Buffer


class EncodedImage(NamedTuple):
    """The bytes of an image file, and what came with them."""

    data: Buffer
    metadata: dict[str, Any]


def decode(value: str | Buffer | Mapping[str, Any]) -> EncodedImage:
    """Decode an object, or the JSON text of one.

    Raises:
        DecodeError: Not an object, no `data`, or `data` is not base64 text.
    """
    fields = dict(value) if isinstance(value, Mapping) else json.decode_object(value)
    try:
        text = fields.pop("data")
    except KeyError:
        raise DecodeError("missing", expected="an image in base64", path="data") from None
    if not isinstance(text, str):
        raise DecodeError(
            "wrong type", expected="a base64 string", got=type(text).__name__, path="data"
        )
    try:
        return EncodedImage(base64.decode(text), fields)
    except DecodeError as exc:
        raise exc.at("data") from exc


def encode(image: EncodedImage) -> str:
    """Encode as JSON text, `data` first.

    Raises:
        PredictError: Metadata that JSON cannot hold.
    """
    fields = {"data": None} | image.metadata | {"data": base64.encode(image.data)}
    return json.encode(fields).decode()
