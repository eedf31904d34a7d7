"""JSON documents that TensorFlow Serving's REST API takes, and how it speaks of their values.

Source: tensorflow/serving, util/json_tensor.cc, sentences of errors included.
"""

from __future__ import annotations

import json as standard_json
from collections.abc import Mapping
from typing import Any, Final

from rayserve_app.codecs import base64, lenient_json
from rayserve_app.errors import DecodeError
from rayserve_app.types import Buffer

MAX_WRITTEN: Final = 1000
"""Characters of a value that a sentence shows; upstream shows all, which may be a whole body."""


def decode_document(body: Buffer | str) -> dict[str, Any]:
    """Read a request's JSON object, in which NaN and Infinity are numbers.

    Raises:
        DecodeError: not JSON, no object, or too much of it.
    """
    raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
    if not raw:
        raise DecodeError("JSON Parse error: The document is empty")
    try:
        document = lenient_json.decode(raw)
    except DecodeError as exc:
        fault = exc.__cause__
        if not isinstance(fault, standard_json.JSONDecodeError):
            raise  # too deep, or too many values
        raise _parse_error(fault.pos, exc.remedy) from exc
    if not isinstance(document, dict):
        raise DecodeError(f"JSON Value: {written(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str | None:
    """Return the signature that a request asks for; None for the default one.

    Raises:
        DecodeError: its name is no string.
    """
    name = document.get("signature_name")
    if isinstance(name, str) or "signature_name" not in document:
        return name or None
    raise DecodeError(
        f"JSON Value: {written(document)} not formatted correctly. 'signature_name' key must be"
        " a string value."
    )


def instances_of(document: Mapping[str, Any]) -> list[Any] | None:
    """Return the rows of a predict request; None for one in columnar form, whose value is
    `document["inputs"]`.

    Raises:
        DecodeError: it is neither form, both, or without a row.
    """
    if "instances" in document and "inputs" in document:
        raise DecodeError(
            f"JSON Value: {written(document)} Not formatted correctly expecting only one of"
            " 'inputs' or 'instances' keys to exist "
        )
    if "inputs" in document:
        return None
    if "instances" not in document:
        raise DecodeError("Missing 'inputs' or 'instances' key")
    instances = document["instances"]
    if not isinstance(instances, list):
        raise DecodeError(
            f"JSON Value: {written(document)} Excepting 'instances' to be an list/array"
        )
    if not instances:
        raise DecodeError(f"JSON Value: {written(document)} No values in 'instances' array")
    return instances


def is_object(value: Any) -> bool:
    """Tell named tensors from bytes, which are an object too."""
    return isinstance(value, dict) and not is_base64(value)


def is_base64(value: Any) -> bool:
    """Tell bytes, `{"b64": "..."}`, from other objects."""
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def as_bytes(value: bytes | str | Mapping[str, Any]) -> bytes:
    """Return the UTF-8 of a string, or the bytes of `{"b64": "..."}`.

    Raises:
        DecodeError: it is another object, or no base64.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if not is_base64(value):
        raise DecodeError(f"JSON Value: {written(value)} not formatted correctly for base64 data")
    text: str = value["b64"]
    try:
        return base64.decode(text, alphabet="standard")
    except DecodeError as exc:
        # absl, escaping.cc: Base64Unescape skips white space, and old encoders break lines.
        unbroken = "".join(text.split())
        if len(unbroken) < len(text):
            return as_bytes({"b64": unbroken})
        raise DecodeError("Unable to base64 decode") from exc


def type_of(value: Any) -> str:
    """Return the name of a value's type (JsonTypeString)."""
    if isinstance(value, bool):
        return str(value)
    kinds = {type(None): "Null", dict: "Object", bytes: "Object", list: "Array", str: "String"}
    return kinds.get(type(value), "Number")


def written(value: Any) -> str:
    """Write a value for a sentence, its first MAX_WRITTEN characters; bytes as they came."""
    encoder = standard_json.JSONEncoder(indent=4, ensure_ascii=False, default=_as_base64)
    text = ""
    for piece in encoder.iterencode(value):
        text += piece[: MAX_WRITTEN + 1]
        if len(text) > MAX_WRITTEN:
            return f"{text[:MAX_WRITTEN]}..."
    return text


def _as_base64(value: bytes) -> dict[str, str]:
    return {"b64": base64.encode(value)}


def _parse_error(offset: int, remedy: str | None) -> DecodeError:
    return DecodeError(f"JSON Parse error: Invalid value. at offset: {offset}", remedy=remedy)
