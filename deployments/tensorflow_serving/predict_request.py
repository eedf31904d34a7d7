"""Predict requests as TensorFlow Serving's REST API reads them.

Source: tensorflow/serving, util/json_tensor.cc; sentences of errors included.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from deployments.tensorflow_serving.json_values import as_bytes, type_of, written
from deployments.tensorflow_serving.status import StatusError, invalid, shape_text
from rayserve_app.types import Array, TensorSpec

MAX_RANK: Final = 32
"""numpy's own limit on axes, less what a batch adds."""

SURROGATE: Final = re.compile(r"(?i)\\ud[89a-f]")

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
        raise invalid("JSON Parse error: The document is empty")
    try:
        text = body if isinstance(body, str) else body.decode()
        document = json.loads(text)
        if SURROGATE.search(text):
            # Half of a pair, which Python's parser lets pass, is no character.
            json.dumps(document, ensure_ascii=False).encode()
    except json.JSONDecodeError as exc:
        raise invalid(f"JSON Parse error: Invalid value. at offset: {exc.pos}") from exc
    except (RecursionError, ValueError) as exc:  # and a number of thousands of digits
        raise invalid("JSON Parse error: Invalid value. at offset: 0") from exc
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {written(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any], default: str) -> str:
    """Return the signature that a request asks for."""
    name = document.get("signature_name", default)
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {written(document)} not formatted correctly. 'signature_name' key must be"
            " a string value."
        )
    return name or default


def parse(document: Mapping[str, Any], specs: Sequence[TensorSpec]) -> PredictBody:
    """Read the tensors of a request for a signature's inputs.

    Raises:
        StatusError: they are missing, or not of the signature's types.
    """
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {written(document)} Not formatted correctly expecting only one of"
            " 'inputs' or 'instances' keys to exist "
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise invalid(
                f"JSON Value: {written(document)} Excepting 'instances' to be an list/array"
            )
        if not instances:
            raise invalid(f"JSON Value: {written(document)} No values in 'instances' array")
        return PredictBody(_from_rows(instances, {spec.name: spec for spec in specs}), True)
    if "inputs" in document:
        return PredictBody(_from_columns(document["inputs"], specs), False)
    raise invalid("Missing 'inputs' or 'instances' key")


def _from_rows(instances: list[Any], specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    are_objects = _is_object(instances[0])
    if not are_objects and len(specs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors"
            " required as per tensorinfo_map"
        )
    columns: dict[str, list[Array]] = {name: [] for name in specs}
    for index, instance in enumerate(instances):
        if _is_object(instance) != are_objects:
            raise invalid(
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
                raise invalid(
                    f"Failed to process element: {index}{key} of 'instances' list. Error:"
                    f" {exc.code}: {exc.message}"
                ) from exc
        if named.keys() != specs.keys():
            raise invalid(
                f"Failed to process element: {index} of 'instances' list. JSON object:"
                f" {written(instance)} keys must be equal to: {','.join(sorted(specs))}"
            )
    return {name: np.stack(column) for name, column in columns.items()}


def _from_row(
    value: Any,
    name: str,
    specs: Mapping[str, TensorSpec],
    columns: Mapping[str, Sequence[Array]],
) -> Array:
    if name not in specs:
        raise invalid(f"JSON object: does not have named input: {name}")
    array = _tensor(value, specs[name])
    if columns[name]:
        first = columns[name][0]
        if first.size != array.size:
            raise invalid(f"Expecting tensor size: {first.size} but got: {array.size}")
        if first.shape != array.shape:
            raise invalid(f"Expecting shape {shape_text(first)} but got: {shape_text(array)}")
    return array


def _from_columns(value: Any, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    if not _is_object(value):
        if len(specs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors"
                " required as per tensorinfo_map"
            )
        return {specs[0].name: _tensor(value, specs[0])}
    for spec in specs:
        if spec.name not in value:
            raise invalid(f"Missing named input: {spec.name} in 'inputs' object.")
    return {spec.name: _tensor(value[spec.name], spec) for spec in specs}


def _tensor(value: Any, spec: TensorSpec) -> Array:
    """Return nested lists as an array of the input's type; the first elements give its shape."""
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    if len(shape) > MAX_RANK:
        raise invalid(f"Encountered list at unexpected level: {MAX_RANK}")
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
        raise invalid(
            f"JSON Value: {written(value)} found at incorrect level: {level + 1} in the JSON DOM."
            f" Expected at level: {len(shape)}"
        )
    if len(value) != shape[level]:
        raise invalid(
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
        raise invalid(f"Encountered list at unexpected level: {level} expected < {level}")
    if dtype == "string":
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, dict):
            return as_bytes(value)
    if type(value) in _plain_types(dtype):
        return value
    raise _type_error(value, dtype)


def _plain_types(dtype: str) -> set[type]:
    """Return the Python types of JSON's values that a tensor of numbers takes as they are."""
    if dtype == "string":
        return set()
    return PLAIN_TYPES.get(np.dtype(dtype).kind, set())


def _is_object(value: Any) -> bool:
    """Tell named tensors from base64, which is an object with the one key `b64`."""
    return isinstance(value, dict) and set(value) != {"b64"}


def _type_error(value: Any, dtype: str) -> StatusError:
    name = TYPE_NAMES.get(dtype, dtype)
    return invalid(
        f"JSON Value: {written(value)} Type: {type_of(value)} is not of expected type: {name}"
    )
