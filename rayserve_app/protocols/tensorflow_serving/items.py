"""From requests of TensorFlow Serving's REST API to a model's items.

Models of tensors whose types are known get what upstream reads, by its rules and in its words. All
others get what their declared input makes of each value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayserve_app.codecs.tensorflow.document import as_bytes, is_base64, is_object
from rayserve_app.codecs.tensorflow.examples import Features, serialise
from rayserve_app.codecs.tensorflow.tensors import read_columns, read_rows, read_tensor, row_error
from rayserve_app.errors import DecodeError, RequestTooLarge, ShapeMismatch
from rayserve_app.inference.servables import Servable
from rayserve_app.payloads.items import Encoded, Payload
from rayserve_app.payloads.tensor_inputs import VECTOR_DTYPES
from rayserve_app.types import Array, TensorSpec


def tensor_specs(servable: Servable) -> tuple[TensorSpec, ...]:
    """Return the tensors that a model takes; none if it takes something else, or does not say of
    which types they are."""
    inputs = servable.inputs
    is_known = inputs.takes_tensors and all(spec.dtype for spec in inputs.specs)
    return inputs.specs if is_known else ()


def read_instances(instances: Sequence[Any], servable: Servable) -> list[Encoded]:
    """Return the items of `instances`: one of each, or the many of a packed stream.

    Raises:
        DecodeError, RequestTooLarge: one of them does not fit; the sentence says which.
    """
    servable.inputs.check_count(len(instances))
    items: list[Encoded] = []
    for index, value in enumerate(_row_values(instances, servable)):
        try:
            items += servable.inputs.from_json_item(value, path="")
        except RequestTooLarge as exc:
            raise exc.at(f"instances[{index}]") from exc.__cause__
        except (DecodeError, ShapeMismatch) as exc:
            raise row_error(index, str(exc)) from exc
    return items


def read_inputs(value: Any, servable: Servable) -> Payload:
    """Return the items of `inputs`, along axis 0; one item for a value that is no list.

    Raises:
        DecodeError, ShapeMismatch, RequestTooLarge: they do not fit.
    """
    inputs = servable.inputs
    specs = tensor_specs(servable)
    if not specs or inputs.settings.type in VECTOR_DTYPES:
        payload = inputs.from_json(_plain_value(value, servable), path="inputs")
    else:
        tensors = read_columns(value, _as_named(specs, value, servable))
        rows, is_batch = _rows_of(tensors, servable)
        items: list[Encoded] = []
        for index, row in enumerate(rows):
            place = f"inputs[{index}]" if is_batch else "inputs"
            items += inputs.from_json_item(row, path=place)
        payload = Payload(items, is_batch)
    if not payload.items:
        raise DecodeError("No values in 'inputs'")
    return payload


def read_features(examples: Sequence[Features], servable: Servable) -> list[Encoded]:
    """Return the items of a classify or regress request's examples. A feature goes to the input of
    its name, others are left out; a model that parses examples itself gets them serialised.

    Raises:
        DecodeError, ShapeMismatch, RequestTooLarge: one of them does not fit; the path says which.
    """
    servable.inputs.check_count(len(examples))
    items: list[Encoded] = []
    for index, features in enumerate(examples):
        place = f"examples[{index}]"
        try:
            items += servable.inputs.from_json_item(_example_value(features, servable), path="")
        except (DecodeError, ShapeMismatch, RequestTooLarge) as exc:
            raise exc.at(place) from exc.__cause__
    return items


def _row_values(instances: Sequence[Any], servable: Servable) -> Sequence[Any]:
    specs = tensor_specs(servable)
    if not specs:
        return [_plain_value(instance, servable) for instance in instances]
    if servable.inputs.settings.type in VECTOR_DTYPES:
        # Vectors may be of unlike length, as Clipper's are.
        return [
            _vector(index, _unnamed(instance, servable), specs[0])
            for index, instance in enumerate(instances)
        ]
    tensors = read_rows(instances, _as_named(specs, instances[0], servable))
    return _rows_of(tensors, servable)[0]


def _vector(index: int, value: Any, spec: TensorSpec) -> Array:
    try:
        return read_tensor(value, spec)
    except DecodeError as exc:
        raise row_error(index, str(exc)) from exc


def _only(tensors: Mapping[str, Array]) -> Array:
    (array,) = tensors.values()
    return array


def _rows_of(tensors: Mapping[str, Array], servable: Servable) -> tuple[list[Any], bool]:
    """Return the values of each item, and whether there was an axis of items at all. A scalar
    among others holds for all items, and so does what has no batch axis; rows have one each."""
    specs = {spec.name: spec for spec in servable.metadata.inputs}
    whole = {
        name
        for name, array in tensors.items()
        if not array.ndim or (name in specs and _holds_for_all(array, specs[name]))
    }
    lengths = {len(array) for name, array in tensors.items() if name not in whole}
    if len(lengths) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in tensors.items())
        raise ShapeMismatch(
            "Inputs of unlike length", expected="one number of items, along axis 0", got=shapes
        )
    count = lengths.pop() if lengths else 1
    servable.inputs.check_count(count)
    rows: list[Any] = [
        {name: array if name in whole else array[index] for name, array in tensors.items()}
        for index in range(count)
    ]
    if servable.inputs.settings.type == "tensor":
        rows = [_only(row) for row in rows]
    return rows, len(whole) < len(tensors)


def _holds_for_all(array: Array, spec: TensorSpec) -> bool:
    if spec.has_batch_axis:
        return False
    return array.ndim <= len(spec.shape) or (not spec.shape and array.size == 1)


def _as_named(
    specs: tuple[TensorSpec, ...], value: Any, servable: Servable
) -> tuple[TensorSpec, ...]:
    """Return the specification under the name that the request uses for a model's only input."""
    if len(specs) == 1 and is_object(value) and len(value) == 1:
        (name,) = value
        if name in servable.inputs.names:
            return (specs[0]._replace(name=name),)
    return specs


def _unnamed(value: Any, servable: Servable) -> Any:
    """Return the value of a model's only input, without its name."""
    if is_object(value) and len(value) == 1:
        (name,) = value
        if name in servable.inputs.names:
            return value[name]
    return value


def _plain_value(value: Any, servable: Servable) -> Any:
    """Return the value of a model's only input, without its name, and bytes as such."""
    if servable.inputs.settings.type in ("request", "tensors"):
        return value
    value = _unnamed(value, servable)
    if isinstance(value, list):
        return [as_bytes(each) if is_base64(each) else each for each in value]
    return as_bytes(value) if is_base64(value) else value


def _example_value(features: Features, servable: Servable) -> Any:
    inputs = servable.inputs
    if inputs.settings.type == "request":
        raise DecodeError("The model takes whole requests, not examples", remedy="Use `:predict`.")
    specs = tensor_specs(servable)
    if inputs.settings.type == "tensors":
        return {name: _feature(features, name, _spec(specs, name)) for name in inputs.names}
    for name in inputs.names:
        if name in features:
            return _feature(features, name, specs[0] if specs else None)
    if [spec.dtype for spec in servable.metadata.inputs] == ["string"]:
        return serialise(features)
    raise _missing(inputs.names[0])


def _spec(specs: Sequence[TensorSpec], name: str) -> TensorSpec | None:
    return next((spec for spec in specs if spec.name == name), None)


def _feature(features: Features, name: str, spec: TensorSpec | None) -> Any:
    """Return a feature's list as what the input takes: an array of its shape, or the only value."""
    values = features.get(name)
    if values is None:
        raise _missing(name)
    if spec is None:
        if len(values) != 1:
            raise DecodeError("Not one value", expected="one", got=str(len(values)), path=name)
        return values[0]
    array = read_tensor(values, spec)
    shape = spec.item_shape
    size = int(np.prod(shape))
    fits = array.size == size or (shape.count(-1) == 1 and size and array.size % size == 0)
    return array.reshape(shape) if spec.is_known and fits else array


def _missing(name: str) -> DecodeError:
    # tensorflow, core/util/example_proto_helper.cc
    return DecodeError(f"Feature: {name} is required but could not be found.")
