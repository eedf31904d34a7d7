"""What models return, as the few kinds of values that codecs know.

Plain values are None, booleans, integers, floats, text, bytes, numpy's numbers and arrays, lists,
tuples, and dictionaries of text. User code returns more than that: tensors of a framework,
pictures, times, dataclasses, subclasses of what is plain. All of that is turned here, once for all
protocols, without importing what it comes from.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final
from uuid import UUID

import numpy as np

from rayserve_app.codecs import base64
from rayserve_app.errors import PredictError
from rayserve_app.types import Array

PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes, list, tuple, np.float64})

_SIMPLE: Final[tuple[Any, ...]] = (str, int, float, bytes)

EXACT_IN_DOUBLE: Final = 2**53
"""Not every integer beyond it is a float64."""


def simplify(value: Any) -> Any:
    """Return a plain value; what lies in a list, tuple or dictionary is left as it is.

    Raises:
        PredictError: there is none; the sentence names the type.
    """
    if type(value) in PLAIN:
        return value
    if isinstance(value, np.ndarray):
        return _plain_array(value)
    try:
        found = _convert(value)
    except PredictError:
        raise
    except Exception as exc:  # a foreign type's own code may raise anything
        raise _no_form(value, f": {type(exc).__name__}: {exc}") from exc
    if found is NotImplemented:
        raise _no_form(value)
    return found


def as_numpy(value: Any) -> Any:
    """Return what is an array of another library's, on whatever device, as numpy's; everything
    else as it is."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, np.ndarray):
        return _plain_array(value)
    if isinstance(value, np.generic | list | tuple | Mapping | str):
        return value
    if hasattr(value, "detach"):  # PyTorch's, which may have a gradient or lie on a GPU
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
    if hasattr(value, "asnumpy"):  # MXNet's
        value = value.asnumpy()
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        return _plain_array(np.asarray(value))
    return value


def exact_array(values: Any) -> Array:
    """Return nested lists as an array of their shape: of objects where numpy would change what they
    hold, as it cuts zeros off text, spells numbers beside text, and rounds large integers beside
    floats. Times stay what they are: as objects, those to the nanosecond would be integers.

    Raises:
        ValueError: the lists are not rectangular.
    """
    if isinstance(values, list | tuple):
        values = [each if type(each) in PLAIN else as_numpy(each) for each in values]
    array = np.asarray(values)
    if array.dtype.kind in "SU" and not isinstance(values, np.ndarray):
        return np.asarray(values, dtype=object)
    return with_integers(array, values)


def with_integers(array: Array, values: Any) -> Array:
    """Return what numpy has made of nested lists, of the same shape; where it has rounded large
    integers, because there is a float beside them or one beyond int64, an array of uint64, or of
    objects."""
    if array.dtype != np.float64 or not isinstance(values, list):
        return array
    if not (np.abs(array) >= EXACT_IN_DOUBLE).any():
        return array
    found = np.asarray(values, dtype=object)
    integers = [int(each) for each in found.flat if isinstance(each, int | np.integer)]
    if not any(abs(each) > EXACT_IN_DOUBLE for each in integers):
        return array
    if len(integers) == found.size and min(integers) >= 0 and max(integers) < 1 << 64:
        return found.astype(np.uint64)
    return found


def widened(array: Array) -> Array:
    """Return an array of half precision, of any shape, as float32, which holds the same numbers;
    text says them with the digits that they have there. Other arrays as they are."""
    is_half = array.dtype == np.float16 or array.dtype.isbuiltin == 2
    return array.astype(np.float32) if is_half else array


def with_text(array: Array) -> Array:
    """Return an array of the same shape whose elements can be said as text: numbers of no less than
    32 bits and no more than 64, or objects.

    Raises:
        PredictError: it is of complex numbers, durations or records.
    """
    array = widened(array)
    kind = array.dtype.kind
    if kind == "M":
        return _times(array)
    if kind in "SU":
        return array.astype(object)
    if kind == "O" or (kind in "biuf" and array.dtype.itemsize <= 8):
        return array
    raise PredictError("The result has no text", got=f"an array of {array.dtype}")


def text_of(data: bytes) -> str | dict[str, str]:
    """Return bytes as JSON has them: as text where they are UTF-8, else as `{"b64": base64}`, which
    is TensorFlow Serving's form."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"b64": base64.encode(data)}


def utf8(value: str | bytes) -> str:
    """Return text, or bytes as the text that they are.

    Raises:
        PredictError: they are not UTF-8, or the text holds half of a surrogate pair.
    """
    try:
        return value.decode() if isinstance(value, bytes) else value.encode().decode()
    except (UnicodeDecodeError, UnicodeEncodeError) as exc:
        raise PredictError(
            "A result is not text", expected="UTF-8", got=f"{type(value).__name__}, {exc.reason}"
        ) from exc


def text_keys(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a mapping with its keys as JSON has them: Python's `json` writes numbers, booleans and
    None as text.

    Raises:
        PredictError: another type of key, or two of one text.
    """
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        text = _key_text(key)
        if text in found:
            raise PredictError("Two keys of a result are one in JSON", got=repr(text))
        found[text] = value
    return found


def _key_text(key: Any) -> str:
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, np.number | np.bool_):
        key = key.item()
    if isinstance(key, bytes):
        return utf8(key)
    if isinstance(key, str):
        return str(key)
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, int):
        return int.__repr__(key)
    if isinstance(key, float):
        return float.__repr__(key)
    raise PredictError("A key of a result is not text", got=f"type {type(key).__qualname__}")


def _convert(value: Any) -> Any:
    """Return a plain value, NotImplemented if there is none."""
    if isinstance(value, np.generic):
        return _plain_scalar(value)
    if isinstance(value, Enum):
        return simplify(value.value)
    if isinstance(value, Mapping):
        is_plain = type(value) is dict and all(type(key) is str for key in value)
        return value if is_plain else text_keys(value)
    for kind in _SIMPLE:
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names}
    if isinstance(value, Sequence):
        return list(value)
    array = as_numpy(value)
    return array if isinstance(array, np.ndarray) else NotImplemented


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        return bytes(value)
    kind, dtype = value.dtype.kind, value.dtype
    if (kind == "f" and dtype.itemsize == 2) or dtype.isbuiltin == 2:
        return np.float32(value)
    if kind == "M":
        return _times(np.asarray(value)).item()
    return value if kind in "biuf" and dtype.itemsize <= 8 else NotImplemented


def _plain_array(array: Array) -> Any:
    if isinstance(array, np.ma.MaskedArray):
        return array.tolist() if np.ma.is_masked(array) else array.data
    if type(array) is not np.ndarray:
        array = np.asarray(array)
    if array.dtype.kind == "T":  # numpy 2's strings of any length
        return array.astype(object)
    is_foreign = array.dtype.isbuiltin == 2 and array.dtype.name != "bfloat16"
    return array.astype(np.float32) if is_foreign else array


def _times(array: Array) -> Array:
    """Return times in the form of ISO 8601, to the second at least; None for NaT."""
    unit, _ = np.datetime_data(array.dtype)
    if unit in "YMWDhm":
        array = array.astype("M8[s]")
    texts: Array = np.array(np.datetime_as_string(array), dtype=object)
    texts[np.isnat(array)] = None
    return texts


def _no_form(value: Any, reason: str = "") -> PredictError:
    return PredictError(
        f"A result cannot be written{reason}",
        got=f"type {type(value).__qualname__}",
    )
