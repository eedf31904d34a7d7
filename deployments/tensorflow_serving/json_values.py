"""JSON's values in requests of TensorFlow Serving's REST API, and in its sentences about them.

Source: tensorflow/serving, util/json_tensor.cc.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from deployments.tensorflow_serving.status import invalid


def is_base64(value: Any) -> bool:
    """Tell bytes, `{"b64": "..."}`, from other objects."""
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def as_bytes(value: Mapping[str, Any]) -> bytes:
    """Decode `{"b64": "..."}`.

    Raises:
        StatusError: it is another object, or no base64.
    """
    if not is_base64(value):
        raise invalid(f"JSON Value: {written(value)} not formatted correctly for base64 data")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError) as exc:
        raise invalid("Unable to base64 decode") from exc


def type_of(value: Any) -> str:
    """Return the name of a value's type (JsonTypeString)."""
    if isinstance(value, bool):
        return str(value)
    kinds = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
    return kinds.get(type(value), "Number")


def written(value: Any) -> str:
    """Write a value for a sentence; unlike upstream's it is cut, since it may be a whole body."""
    text = json.dumps(value, indent=4)
    return text if len(text) <= 1000 else f"{text[:1000]}..."
