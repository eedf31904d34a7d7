"""Results as their own bytes: no framing, no type, no shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from rayserve_app.codecs.plain_values import simplify, utf8
from rayserve_app.errors import PredictError


def encode(value: Any) -> bytes:
    """Return bytes as they are, text as UTF-8, an array as its elements in C order, those that are
    bytes or text one after the other.

    Raises:
        PredictError: Any other type, an array of objects, text that UTF-8 cannot hold.
    """
    value = simplify(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "SUO":
            return b"".join(map(encode, value.reshape(-1).tolist()))
        return value.tobytes()
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return utf8(value).encode()
    if isinstance(value, np.generic):
        return value.tobytes()
    raise PredictError(
        "a result cannot be written as raw bytes",
        expected="bytes, text or an array",
        got=f"type {type(value).__qualname__}",
    )
