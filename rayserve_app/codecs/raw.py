"""Results as their own bytes: no framing, no type, no shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from rayserve_app.errors import PredictError


def encode(value: Any) -> bytes:
    """Return bytes as they are, text as UTF-8, an array as its elements in C order.

    Raises:
        PredictError: Any other type, an array of objects, text that UTF-8 cannot hold.
    """
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as exc:
            raise PredictError(f"a text result cannot be written as UTF-8: {exc.reason}") from exc
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.tobytes()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    got = type(value).__qualname__
    if isinstance(value, np.ndarray):
        got += f" of {value.dtype}"
    raise PredictError(
        "a result cannot be written as raw bytes", expected="bytes, text or an array", got=got
    )
