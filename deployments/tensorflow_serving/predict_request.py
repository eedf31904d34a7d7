"""Predict requests as TensorFlow Serving's REST API reads them.

Source: tensorflow/serving, util/json_tensor.cc; sentences of errors included.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from deployments.tensorflow_serving.model_server import StatusError
from rayserve_app.types import Array, TensorSpec

MAX_RANK: Final = 32
"""numpy's own limit on axes, less what a batch adds."""

# DataTypeString, types.cc, where it differs from numpy's name.
TYPE_NAMES: Final = {"float32": "float", "float64": "double", "float16": "half"}

PLAIN_TYPES: Final[Mapping[str, set[type]]] = {
    "f": {int, float},
    "b": {bool},
    "i": {int},
    "u": {int},
}


class PredictBody(NamedTuple):
    """A parsed request: `is_row` says whether `instances` was sent, and is answered as such."""

    inputs: dict[str, Array]
    is_row: bool


def parse_document(body: bytes | str) -> dict[str, Any]:
    """Read a request's JSON object; NaN and Infinity are numbers.

    Raises:
        StatusError: not JSON, or no object.
    """
    if not body:
        raise _invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except json.JSONDecodeError as exc:
        raise _invalid(f"JSON Parse error: Invalid value. at offset: {exc.pos}") from exc
    except (RecursionError, UnicodeDecodeError) as exc:
        raise _invalid("JSON Parse error: Invalid value. at offset: 0") from exc
    if not isinstance(document, dict):
        raise _invalid(f"JSON Value: {_text(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any], default: str) -> str:
    """Return the signature that a request asks for."""
    name = document.get("signature_name", default)
    if not isinstance(name, str):
        raise _invalid(
            f"JSON Value: {_text(document)} not formatted correctly. 'signature_name' key must be"
            " a string value."
        )
    return name or default


def parse(document: Mapping[str, Any], specs: Sequence[TensorSpec]) -> PredictBody:
    """Read the tensors of a request for a signature's inputs.

    Raises:
        StatusError: they are missing, or not of the signature's types.
    """
    if "instances" in document and "inputs" in document:
        raise _invalid(
            f"JSON Value: {_text(document)} Not formatted correctly expecting only one of 'inputs'"
            " or 'instances' keys to exist "
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise _invalid(
                f"JSON Value: {_text(document)} Excepting 'instances' to be an list/array"
            )
        if not instances:
            raise _invalid(f"JSON Value: {_text(document)} No values in 'instances' array")
        return PredictBody(_from_rows(instances, {spec.name: spec for spec in specs}), True)
    if "inputs" in document:
        return PredictBody(_from_columns(document["inputs"], specs), False)
    raise _invalid("Missing 'inputs' or 'instances' key")


def _from_rows(instances: list[Any], specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    are_objects = _is_object(instances[0])
    if not are_objects and len(specs) > 1:
        raise _invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors"
            " required as per tensorinfo_map"
        )
    columns: dict[str, list[Array]] = {name: [] for name in specs}
    for index, instance in enumerate(instances):
        if _is_object(instance) != are_objects:
            raise _invalid(
                f"Expecting object but got list at item {index} of input list"
                if are_objects
                else f"Expecting value/list but got object at item {index} of input list"
            )
        named = instance if are_objects else dict.fromkeys(specs, instance)
        for name, value in named.items():
            key = f" key: {name}" if are_objects else ""
            try:
                columns.setdefault(name, []).append(_from_row(value, name, specs, columns))
            except StatusError as exc:
                raise _invalid(
                    f"Failed to process element: {index}{key} of 'instances' list. Error:"
                    f" {exc.code}: {exc.message}"
                ) from exc
        if named.keys() != specs.keys():
            raise _invalid(
                f"Failed to process element: {index} of 'instances' list. JSON object:"
                f" {_text(instance)} keys must be equal to: {','.join(sorted(specs))}"
            )
    return {name: np.stack(column) for name, column in columns.items()}


def _from_row(
    value: Any,
    name: str,
    specs: Mapping[str, TensorSpec],
    columns: Mapping[str, Sequence[Array]],
) -> Array:
    if name not in specs:
        raise _invalid(f"JSON object: does not have named input: {name}")
    array = _tensor(value, specs[name])
    if columns[name]:
        first = columns[name][0]
        if first.size != array.size:
            raise _invalid(f"Expecting tensor size: {first.size} but got: {array.size}")
        if first.shape != array.shape:
            raise _invalid(f"Expecting shape {_shape_text(first)} but got: {_shape_text(array)}")
    return array


def _from_columns(value: Any, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    if not _is_object(value):
        if len(specs) > 1:
            raise _invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors"
                " required as per tensorinfo_map"
            )
        return {specs[0].name: _tensor(value, specs[0])}
    for spec in specs:
        if spec.name not in value:
            raise _invalid(f"Missing named input: {spec.name} in 'inputs' object.")
    return {spec.name: _tensor(value[spec.name], spec) for spec in specs}


def _tensor(value: Any, spec: TensorSpec) -> Array:
    """Return nested lists as an array of the input's type; the first elements give its shape."""
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    if len(shape) > MAX_RANK:
        raise _invalid(f"Encountered list at unexpected level: {MAX_RANK}")
    leaves: list[Any] = []
    _collect(value, 0, shape, spec.dtype, leaves)
    dtype = np.dtype(object if spec.dtype == "string" else spec.dtype)
    array = np.empty(len(leaves), dtype)
    try:
        array[:] = leaves
    except OverflowError as exc:
        raise _type_error(max(leaves, key=abs), spec.dtype) from exc
    return array.reshape(shape)


def _collect(value: Any, level: int, shape: list[int], dtype: str, leaves: list[Any]) -> None:
    if level == len(shape):
        leaves.append(_leaf(value, level, dtype))
        return
    if not isinstance(value, list):
        raise _invalid(
            f"JSON Value: {_text(value)} found at incorrect level: {level + 1} in the JSON DOM."
            f" Expected at level: {len(shape)}"
        )
    if len(value) != shape[level]:
        raise _invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size:"
            f" {shape[level]}"
        )
    if level == len(shape) - 1 and set(map(type, value)) <= _plain_types(dtype):
        leaves += value
        return
    for element in value:
        _collect(element, level + 1, shape, dtype, leaves)


def _leaf(value: Any, level: int, dtype: str) -> Any:
    if isinstance(value, list):
        raise _invalid(f"Encountered list at unexpected level: {level} expected < {level}")
    if dtype == "string":
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, dict):
            return _from_base64(value)
    if type(value) in _plain_types(dtype):
        return value
    raise _type_error(value, dtype)


def _plain_types(dtype: str) -> set[type]:
    """Return the Python types of JSON's values that a tensor of numbers takes as they are."""
    if dtype == "string":
        return set()
    return PLAIN_TYPES.get(np.dtype(dtype).kind, set())


def _from_base64(value: Mapping[str, Any]) -> bytes:
    if set(value) != {"b64"} or not isinstance(value["b64"], str):
        raise _invalid(f"JSON Value: {_text(value)} not formatted correctly for base64 data")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError) as exc:
        raise _invalid("Unable to base64 decode") from exc


def _is_object(value: Any) -> bool:
    """Tell named tensors from base64, which is an object with the one key `b64`."""
    return isinstance(value, dict) and set(value) != {"b64"}


def _type_error(value: Any, dtype: str) -> StatusError:
    kinds = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
    kind = str(value) if isinstance(value, bool) else kinds.get(type(value), "Number")
    name = TYPE_NAMES.get(dtype, dtype)
    return _invalid(f"JSON Value: {_text(value)} Type: {kind} is not of expected type: {name}")


def _text(value: Any) -> str:
    """Write a value for a sentence; unlike upstream's it is cut, since it may be a whole body."""
    text = json.dumps(value, indent=4)
    return text if len(text) <= 1000 else f"{text[:1000]}..."


def _shape_text(array: Array) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def _invalid(message: str) -> StatusError:
    return StatusError("INVALID_ARGUMENT", message)
