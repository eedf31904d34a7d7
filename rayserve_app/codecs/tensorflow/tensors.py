"""Tensors in predict requests of TensorFlow Serving's REST API, as rows or as columns.

Source: tensorflow/serving, util/json_tensor.cc, sentences of errors included. A tensor's shape is
that of its nested lists, its type the signature's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np

from rayserve_app.codecs.tensorflow.document import as_bytes, is_object, type_of, written
from rayserve_app.errors import DecodeError
from rayserve_app.types import Array, TensorSpec

MAX_RANK: Final = 31
"""Numpy's limit on axes, which is 32 before numpy 2, less the one that a batch adds."""

# DataTypeString, types.cc, where it differs from numpy's name.
_TYPE_NAMES: Final = {"float32": "float", "float64": "double", "float16": "half"}

_LEAF_TYPES: Final[Mapping[str, set[type]]] = {"b": {bool}, "i": {int}, "u": {int}}


def read_rows(instances: Sequence[Any], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the tensors of `instances`: axis 0 counts the rows, which are all of one shape.

    Args:
        instances: at least one; objects of all inputs, or values where there is one input.
    Raises:
        DecodeError: they do not fit; the sentence says which one and how.
    """
    named = {spec.name: spec for spec in specs}
    are_objects = is_object(instances[0])
    if not are_objects and len(specs) > 1:
        raise DecodeError(
            "instances is a plain list, but expecting list of objects as multiple input tensors"
            " required as per tensorinfo_map"
        )
    if not are_objects:
        columns = dict.fromkeys(named, instances)
    elif all(is_object(each) and each.keys() == named.keys() for each in instances):
        columns = {name: [each[name] for each in instances] for name in named}
    else:
        raise _row_fault(instances, named)
    try:
        return {name: read_tensor(columns[name], spec) for name, spec in named.items()}
    except DecodeError as exc:
        raise _row_fault(instances, named) from exc


def read_columns(value: Any, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the tensors of `inputs`, each with its batch axis: an object of all inputs, or the
    value of the only one.

    Raises:
        DecodeError: they do not fit.
    """
    if not is_object(value):
        if len(specs) > 1:
            raise DecodeError(
                "inputs is a plain value/list, but expecting an object as multiple input tensors"
                " required as per tensorinfo_map"
            )
        return {specs[0].name: read_tensor(value, specs[0])}
    for spec in specs:
        if spec.name not in value:
            raise DecodeError(f"Missing named input: {spec.name} in 'inputs' object.")
    return {spec.name: read_tensor(value[spec.name], spec) for spec in specs}


def read_tensor(value: Any, spec: TensorSpec) -> Array:
    """Return nested lists as an array of their shape and of the input's type: objects, which are
    bytes, for strings.

    Raises:
        DecodeError: lists of unlike length, a leaf of another type, or a number out of range.
    """
    shape: list[int] = []
    leaves: list[Any] = [value]
    while leaves and set(map(type, leaves)) == {list} and len(shape) < MAX_RANK:
        lengths = set(map(len, leaves))
        if len(lengths) > 1:
            break
        shape.append(lengths.pop())
        leaves = list(chain.from_iterable(leaves))
    kinds = set(map(type, leaves))
    if not kinds <= _leaf_types(spec.dtype):
        raise _fault(value, 0, _first_shape(value), spec.dtype) or DecodeError("Not a tensor")
    if spec.dtype == "string":
        array = np.empty(len(leaves), object)
        array[:] = [as_bytes(leaf) for leaf in leaves]
    else:
        array = _numbers(leaves, spec.dtype)
    return array.reshape(shape)


def _leaf_types(dtype: str) -> set[type]:
    """Return the Python types of JSON's values that a tensor takes."""
    if dtype == "string":
        return {bytes, str, dict}
    return _LEAF_TYPES.get(np.dtype(dtype).kind, {int, float})


def _numbers(leaves: list[Any], dtype_name: str) -> Array:
    dtype = np.dtype(dtype_name)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if leaves and not limits.min <= min(leaves) <= max(leaves) <= limits.max:
            raise _type_fault(min(leaves) if min(leaves) < limits.min else max(leaves), dtype_name)
        return np.array(leaves, dtype)
    if dtype.kind == "b":
        return np.array(leaves, dtype)
    wide = np.array(leaves, np.float64)
    with np.errstate(over="ignore"):
        array = wide.astype(dtype)
    lossy = np.isinf(array) & np.isfinite(wide)
    if lossy.any():
        raise DecodeError(
            f"Cannot convert JSON value: {written(leaves[int(lossy.argmax())])} to"
            f" {_TYPE_NAMES.get(dtype_name, dtype_name)} without loss of precision."
        )
    return array


def _row_fault(instances: Sequence[Any], named: Mapping[str, TensorSpec]) -> DecodeError:
    """Return what is wrong with the first row that does not fit those before it."""
    are_objects = is_object(instances[0])
    first: dict[str, Array] = {}
    for index, instance in enumerate(instances):
        if is_object(instance) != are_objects:
            return DecodeError(
                f"Expecting object but got list at item {index} of input list"
                if are_objects
                else f"Expecting value/list but got object at item {index} of input list"
            )
        values = instance if are_objects else dict.fromkeys(named, instance)
        for name, value in values.items():
            key = f" key: {name}" if are_objects else ""
            try:
                _check_row(value, name, named, first)
            except DecodeError as exc:
                return row_error(index, str(exc), key=key)
        if values.keys() != named.keys():
            return DecodeError(
                f"Failed to process element: {index} of 'instances' list. JSON object:"
                f" {written(instance)} keys must be equal to: {','.join(sorted(named))}"
            )
    return DecodeError("The instances make no tensor")


def row_error(index: int, sentence: str, *, key: str = "") -> DecodeError:
    """Return the error of one of the instances."""
    return DecodeError(
        f"Failed to process element: {index}{key} of 'instances' list. Error: INVALID_ARGUMENT:"
        f" {sentence}"
    )


def _check_row(
    value: Any, name: str, named: Mapping[str, TensorSpec], first: dict[str, Array]
) -> None:
    if name not in named:
        raise DecodeError(f"JSON object: does not have named input: {name}")
    array = read_tensor(value, named[name])
    expected = first.setdefault(name, array)
    if expected.size != array.size:
        raise DecodeError(f"Expecting tensor size: {expected.size} but got: {array.size}")
    if expected.shape != array.shape:
        raise DecodeError(f"Expecting shape {shape_text(expected)} but got: {shape_text(array)}")


def shape_text(array: Array) -> str:
    """Write a shape as `TensorShape::DebugString` does: `[2,3]`."""
    return f"[{','.join(map(str, array.shape))}]"


def _first_shape(value: Any) -> list[int]:
    """Return the shape that the first elements give (GetDenseTensorShape)."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _fault(value: Any, level: int, shape: Sequence[int], dtype: str) -> DecodeError | None:
    """Return what upstream finds wrong with a tensor first (FillTensorProto)."""
    if not isinstance(value, list):
        if level != len(shape):
            return DecodeError(
                f"JSON Value: {written(value)} found at incorrect level: {level + 1} in the JSON"
                f" DOM. Expected at level: {len(shape)}"
            )
        return None if type(value) in _leaf_types(dtype) else _type_fault(value, dtype)
    if level >= min(len(shape), MAX_RANK):
        return DecodeError(
            f"Encountered list at unexpected level: {level} expected < {min(len(shape), MAX_RANK)}"
        )
    if len(value) != shape[level]:
        return DecodeError(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size:"
            f" {shape[level]}"
        )
    faults = (_fault(element, level + 1, shape, dtype) for element in value)
    return next((fault for fault in faults if fault is not None), None)


def _type_fault(value: Any, dtype: str) -> DecodeError:
    name = _TYPE_NAMES.get(dtype, dtype)
    return DecodeError(
        f"JSON Value: {written(value)} Type: {type_of(value)} is not of expected type: {name}"
    )
