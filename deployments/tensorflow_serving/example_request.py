"""Classify and regress requests as TensorFlow Serving's REST API reads them: `tf.train.Example`s
written as JSON objects.

Source: tensorflow/serving, util/json_tensor.cc, servables/tensorflow/util.cc; sentences of errors
included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from deployments.tensorflow_serving.json_values import as_bytes, is_base64, type_of, written
from deployments.tensorflow_serving.status import invalid

MAX_FLOAT: Final = float(np.finfo(np.float32).max)
INT64: Final = np.iinfo(np.int64)

# The fields of `tf.train.Feature`, as upstream calls them.
KIND_NAMES: Final = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def parse(document: Mapping[str, Any]) -> list[bytes]:
    """Return the serialised examples of a request.

    Raises:
        StatusError: there are none, or one holds what a feature cannot.
    """
    context = _example(document["context"]) if "context" in document else b""
    if "examples" not in document:
        raise invalid(
            f"JSON Value: {written(document)} When method is classify, key 'examples' is expected"
            " and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise invalid(
            f"JSON Value: {written(document)} Expecting 'examples' value to be an list/array"
        )
    if not examples:
        raise invalid(f"JSON Value: {written(document)} 'examples' value is an empty array")
    # Messages that follow each other are one, in which the later fields win.
    return [context + _example(example) for example in examples]


def _example(value: Any) -> bytes:
    from tensorflow.core.example.example_pb2 import Example

    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {type_of(value)}")
    message: Any = Example()
    for name, content in value.items():
        _fill(message.features.feature[name], name, content)
    serialised: bytes = message.SerializeToString()
    return serialised


def _fill(feature: Any, name: str, content: Any) -> None:
    for value in content if isinstance(content, list) else [content]:
        kind, element = _element(value, name)
        present = feature.WhichOneof("kind")
        if present not in (None, kind):
            raise invalid(
                f"Unexpected element type in feature: {name} expecting type: {KIND_NAMES[present]}"
            )
        getattr(feature, kind).value.append(element)


def _element(value: Any, name: str) -> tuple[str, Any]:
    """Return the field that a value belongs to, and the value as it stands there."""
    if isinstance(value, str):
        return "bytes_list", value.encode()
    if is_base64(value):
        return "bytes_list", as_bytes(value)
    if isinstance(value, int):  # and bool, which is 0 or 1 there
        if not INT64.min <= value <= INT64.max:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return "int64_list", int(value)
    if isinstance(value, float):
        if math.isfinite(value) and abs(value) > MAX_FLOAT:
            raise invalid(
                f"Cannot convert JSON value: {written(value)} to float without loss of precision."
            )
        return "float_list", value
    raise invalid(f"Feature: {name} has element with unexpected JSON type: {type_of(value)}")
