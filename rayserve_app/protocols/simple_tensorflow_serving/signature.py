"""What simple_tensorflow_serving says of a model: its signature, and data that fit it.

Source: tobegit3hub/simple_tensorflow_serving, commit 6aa1aad, tensorflow_inference_service.py and
gen_client/gen_client.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from rayserve_app.codecs import base64
from rayserve_app.errors import RequestTooLarge
from rayserve_app.inference.servables import Servable
from rayserve_app.inference.warm_up import BLACK_PNG
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.types import TensorSpec

# tensorflow/core/framework/types.proto, DataType; 0 is DT_INVALID.
DATA_TYPES: Final[Mapping[str, int]] = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "string": 7,
    "complex64": 8,
    "int64": 9,
    "bool": 10,
    "bfloat16": 14,
    "uint16": 17,
    "complex128": 18,
    "float16": 19,
    "uint32": 22,
    "uint64": 23,
}

INTEGERS: Final = frozenset(name for name in DATA_TYPES if "int" in name)

UNKNOWN_SIZE: Final = 2
"""What gen_client.py puts for an axis of any length."""

MAX_VALUES: Final = 1_000_000
"""Numbers that are written as an example, which takes some 0.3 s."""


def takes_files(inputs: Inputs) -> bool:
    """Return whether an item is an encoded file, as its bytes or as the text that the model
    declares, so that an uploaded file can be one."""
    return inputs.takes_images or inputs.settings.type == "request"


def describe_signature(servable: Servable, outputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Return inputs and outputs as JSON values, their types as TensorFlow numbers them."""
    return {"inputs": _describe(input_specs(servable)), "outputs": _describe(outputs)}


def input_specs(servable: Servable) -> Sequence[TensorSpec]:
    """Return the inputs as a client must send them; encoded files are strings."""
    specs = servable.inputs.specs
    if servable.inputs.settings.type == "tensors":
        return specs
    # An axis of items at least.
    return [each if each.is_known else each._replace(shape=(-1,)) for each in specs]


def example_data(servable: Servable, *, max_items: int) -> dict[str, Any]:
    """Return data of two items that fit a model's inputs: ones, `true`, empty strings, and where
    encoded images are taken black ones. Arrays are views that cost no memory.

    Raises:
        RequestTooLarge: even one item has more than MAX_VALUES numbers.
    """
    specs = input_specs(servable)
    if servable.inputs.settings.type == "request":
        return {spec.name: {} for spec in specs}
    # gen_client.py writes "" for an image too, which no model can read.
    text = base64.encode(BLACK_PNG, urlsafe=True) if takes_files(servable.inputs) else ""
    for count in (min(UNKNOWN_SIZE, max_items), 1):
        shapes = {spec.name: _sizes(spec, count) for spec in specs}
        if sum(map(math.prod, shapes.values())) <= MAX_VALUES:
            return {
                spec.name: np.broadcast_to(_value(spec.dtype, text), shapes[spec.name])
                for spec in specs
            }
    raise RequestTooLarge(
        "The inputs are too large for an example", expected=f"{MAX_VALUES} values"
    )


def example_bytes(data: Mapping[str, Any]) -> int:
    """Return about how long the data are in JSON."""
    return sum(4 * np.size(value) for value in data.values())


def _describe(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [
        {"name": spec.name, "dtype": DATA_TYPES.get(spec.dtype, 0), "shape": list(spec.shape)}
        for spec in specs
    ]


def _sizes(spec: TensorSpec, count: int) -> tuple[int, ...]:
    rest = (UNKNOWN_SIZE if size == -1 else size for size in spec.item_shape)
    if not spec.has_batch_axis:
        return tuple(rest)
    return (count if spec.shape[:1] == (-1,) else spec.shape[0], *rest) if spec.shape else ()


def _value(dtype: str, text: str) -> Any:
    if dtype == "string":
        return np.array(text, dtype=object)
    return np.ones((), dtype or np.float64)
