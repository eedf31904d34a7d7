"""From JSON, CSV or a caller's array to one item of the type and shape that a model takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rayserve_app.codecs.plain_values import with_integers
from rayserve_app.errors import ShapeMismatch
from rayserve_app.types import Array, TensorSpec, describe


def as_array(value: Any, spec: TensorSpec) -> Array:
    """Return nested lists (or an array) as an array, of objects where the model takes strings.

    Raises:
        ShapeMismatch: the lists are not rectangular, or hold what is no number.
    """
    is_string = spec.dtype == "string"
    if isinstance(value, Mapping) or (isinstance(value, str) and not is_string):
        names = ", ".join(map(repr, list(value)[:5])) if isinstance(value, Mapping) else ""
        raise ShapeMismatch(
            "Not an array" if is_string else "Not an array of numbers",
            expected=shape_text(spec),
            got=f"object with {names or 'nothing'}" if isinstance(value, Mapping) else "str",
            path=spec.name,
        )
    if isinstance(value, list) and not is_string and (odd := _find_no_number(value)) is not None:
        # numpy would make every element as long as the longest string.
        raise ShapeMismatch(
            "Not an array of numbers", expected=shape_text(spec), got=odd.__name__, path=spec.name
        )
    try:
        array = np.asarray(value, dtype=object if is_string else None)
        # Where integers are wanted, or nobody says what is, they must not be rounded.
        is_float = spec.dtype != "" and not is_string and np.dtype(spec.dtype).kind not in "iu"
        return array if is_float else with_integers(array, value)
    except ValueError as exc:
        raise ShapeMismatch(
            "Not a rectangular array", expected=shape_text(spec), path=spec.name
        ) from exc


def _find_no_number(values: list[Any]) -> type | None:
    """Return a type among the leaves of nested lists that is no JSON number or boolean."""
    kinds = set(map(type, values))
    if odd := kinds - {int, float, bool, list}:
        return odd.pop()
    if list in kinds:
        for value in values:
            if isinstance(value, list) and (found := _find_no_number(value)) is not None:
                return found
    return None


def fit(array: Array, spec: TensorSpec) -> Array:
    """Check one item against its specification and convert it to the model's type, within a kind
    (integers may become floats, never the reverse)."""
    dtype = np.dtype(spec.dtype) if spec.dtype and spec.dtype != "string" else array.dtype
    is_number = array.dtype.kind in "biufc" or array.dtype.isbuiltin == 2  # bfloat16
    if not is_number and spec.dtype != "string":
        raise ShapeMismatch(
            "Not an array of numbers",
            expected=shape_text(spec),
            got=describe(array),
            path=spec.name,
        )
    shape = spec.item_shape
    if not (shape or spec.has_batch_axis) and array.size == 1:
        array = array.reshape(())  # a scalar in brackets, for protocols that have no other
    fits = not spec.is_known or (
        array.ndim == len(shape)
        and all(want in (-1, got) for want, got in zip(shape, array.shape, strict=True))
    )
    # numpy has two kinds of integers, JSON only one.
    are_integers = array.dtype.kind in "iu" and dtype.kind in "iu"
    converts = are_integers or not array.size or np.can_cast(array.dtype, dtype, "same_kind")
    if not (fits and converts):
        raise ShapeMismatch(
            "The array does not fit the model",
            expected=shape_text(spec),
            got=describe(array),
            path=spec.name,
        )
    if are_integers and array.dtype != dtype and array.size:
        bounds = np.iinfo(dtype)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise ShapeMismatch("An integer is out of range", expected=dtype.name, path=spec.name)
    try:
        with np.errstate(over="raise"):
            return array.astype(dtype, copy=False)
    except FloatingPointError as exc:
        raise ShapeMismatch(
            "A number is out of range", expected=dtype.name, path=spec.name
        ) from exc


def whole(array: Array, spec: TensorSpec) -> Array:
    """Return the integers that a row of CSV holds, whose numbers are all read as floats."""
    if spec.dtype in ("", "string") or np.dtype(spec.dtype).kind not in "iu":
        return array
    if array.dtype.kind != "f" or (abs(array) > 2**53).any() or (array != np.rint(array)).any():
        return array
    return array.astype(np.int64)


def shape_text(spec: TensorSpec) -> str:
    """Return `float32 (8, *)`: one item's type and shape, `*` for any."""
    if not spec.is_known:
        return spec.dtype or "numbers"
    dims = ["*" if size == -1 else str(size) for size in spec.item_shape]
    return f"{spec.dtype or 'numbers'} ({', '.join(dims)})"
