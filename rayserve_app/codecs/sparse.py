"""Sparse tensors in JSON, as Cluster Serving's HTTP frontend takes them, made dense.

`{"shape": [...], "data": [...], "indices": [[...], ...]}`: one list of indices, from 0, per value.
Source: Analytics Zoo, serving/http/domains.scala, SparseTensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Final

import numpy as np

from rayserve_app.codecs.plain_values import with_integers
from rayserve_app.errors import DecodeError, RequestTooLarge, ShapeMismatch
from rayserve_app.types import Array

KEYS: Final = {"shape", "data", "indices"}

MAX_RANK: Final = 32


def is_sparse(value: Any) -> bool:
    """Return whether a JSON value is a sparse tensor."""
    return isinstance(value, Mapping) and set(value) == KEYS


def decode(value: Mapping[str, Any], *, max_bytes: int) -> Array:
    """Return the dense array: int64 for integers, or uint64 if they need that, else float32; values
    at one place add up.

    Indices may also stand in one list per dimension, (rank, values), as Cluster Serving's Python
    client has them, where that is no square.

    Raises:
        DecodeError, ShapeMismatch: not such an object, or an index outside the shape.
        RequestTooLarge: the dense array would take more than `max_bytes`.
    """
    shape = tuple(int(size) for size in _numbers(value, "shape", "iu", rank=1))
    data = _numbers(value, "data", "iuf", rank=1)
    indices = _numbers(value, "indices", "iu", rank=2)
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise ShapeMismatch("Not a shape", got=str(list(shape))[:100], path="shape")
    if indices.shape != (len(data), len(shape)):
        indices = indices.T
    if len(data) and indices.shape != (len(data), len(shape)):
        raise ShapeMismatch(
            "Wrong number of indices",
            expected=f"{len(data)} lists of {len(shape)}",
            got=f"{indices.shape[1]} of {indices.shape[0]}",
            path="indices",
        )
    dtype = data.dtype if data.dtype.kind in "iu" else np.dtype(np.float32)
    if (size := prod(max(1, length) for length in shape) * dtype.itemsize) > max_bytes:
        raise RequestTooLarge(
            "The dense tensor is too large",
            expected=f"at most {max_bytes} bytes",
            got=f"{size} of {dtype.name} {shape}",
        )
    dense = np.zeros(shape, dtype)
    if len(data):
        if (indices < 0).any() or (indices >= shape).any():
            raise ShapeMismatch(
                "An index is out of range", expected=f"0 to less than {shape}", path="indices"
            )
        with np.errstate(over="ignore"):
            np.add.at(dense, tuple(indices.T), data.astype(dtype, copy=False))
    return dense


def _numbers(value: Mapping[str, Any], key: str, kinds: str, *, rank: int) -> Array:
    """Return one of the three lists as an array; of an empty one nobody asks the type."""
    numbers = value[key]
    try:
        array = with_integers(np.asarray(numbers), numbers) if isinstance(numbers, list) else None
    except ValueError:
        array = None
    if array is not None and not array.size:
        return np.zeros((0,) * rank, np.int64)
    if array is None or array.ndim != rank or array.dtype.kind not in kinds:
        raise DecodeError(
            "Not a sparse tensor",
            expected="integers" if "f" not in kinds else "numbers",
            got=type(numbers).__name__,
            path=key,
        )
    return array
