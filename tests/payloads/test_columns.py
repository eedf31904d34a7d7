"""Named inputs of many items each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rayserve_app.errors import (
    DecodeError,
    ShapeMismatch,
)
from rayserve_app.types import TensorSpec
from tests.payloads.forms import JPEG, PHOTO, b64, columns_of

IMAGE = TensorSpec("pixels", "float32", (-1, -1, -1, 3))


@pytest.mark.parametrize("name", ["pixels", "image"])
@pytest.mark.parametrize(
    "column", [[b64(JPEG)] * 2, [{"b64": b64(JPEG)}] * 2, [JPEG, JPEG], [memoryview(JPEG)] * 2]
)
def test_images_come_as_a_named_column(name: str, column: list[Any]) -> None:
    inputs = columns_of({"type": "image"}, IMAGE)
    payload = inputs.from_columns({name: column})
    assert payload.is_batch
    decoded = [inputs.decode(item) for item in payload.items]
    expected = inputs.decode(inputs.from_json_item(JPEG)[0])
    assert len(decoded) == 2
    for each in decoded:
        np.testing.assert_array_equal(each, expected)


def test_pixels_come_as_a_named_array() -> None:
    inputs = columns_of({"type": "image", "size": [64, 64]}, IMAGE)
    payload = inputs.from_columns({"pixels": PHOTO[None]})
    np.testing.assert_array_equal(payload.items[0], PHOTO)


def test_one_row_of_bytes_as_uint8_is_an_encoded_image() -> None:
    inputs = columns_of({"type": "image"}, IMAGE)
    payload = inputs.from_columns({"image": np.frombuffer(JPEG, np.uint8)})
    assert (len(payload.items), payload.is_batch) == (1, False)


@pytest.mark.parametrize("element", [JPEG, b64(JPEG).encode()])
def test_bytes_for_a_model_of_base64_strings_are_the_image_or_its_text(element: bytes) -> None:
    inputs = columns_of({"type": "string", "codec": "base64"})
    assert list(inputs.from_columns({"string": [element]}).items) == [b64(JPEG)]


def test_strings_come_as_bytes_or_text() -> None:
    inputs = columns_of({"type": "string"}, TensorSpec("text", "string", (-1,)))
    assert list(inputs.from_columns({"text": ["a", "é".encode()]}).items) == ["a", "é"]
    with pytest.raises(DecodeError, match="UTF-8"):
        inputs.from_columns({"text": [b"\xff"]})


def test_several_inputs_come_as_columns_of_one_length() -> None:
    specs = (TensorSpec("a", "float32", (-1, 2)), TensorSpec("b", "int64", (-1,)))
    inputs = columns_of({"type": "tensors"}, *specs)
    payload = inputs.from_columns({"a": [[1, 2], [3, 4]], "b": np.array([5, 6])})
    second = payload.items[1]
    assert isinstance(second, dict)
    np.testing.assert_array_equal(second["a"], np.array([3, 4], np.float32))
    assert (second["a"].dtype, second["b"]) == (np.float32, 6)
    for columns in ({"a": [[1, 2]], "b": [5, 6]}, {"a": [[1, 2]]}, {}, {"a": 1, "b": 2}):
        with pytest.raises(ShapeMismatch):
            inputs.from_columns(columns)


def test_a_column_of_another_name_is_refused_with_the_known_ones() -> None:
    inputs = columns_of({"type": "image"}, IMAGE)
    with pytest.raises(ShapeMismatch, match=r"expected \['pixels', 'image'\], got \['x'\]"):
        inputs.from_columns({"x": [b64(JPEG)]})


def test_numbers_are_no_bytes() -> None:
    inputs = columns_of({"type": "bytes"})
    with pytest.raises(ShapeMismatch, match="Not bytes"):
        inputs.from_columns({"bytes": np.ones((2, 2))})


def test_a_column_of_unknown_shape_is_counted_along_axis_0() -> None:
    inputs = columns_of({"type": "tensor"}, TensorSpec("x", "", ()))
    for column in ([[1.0, 2.0], [3.0, 4.0]], np.array([[1.0, 2.0], [3.0, 4.0]])):
        payload = inputs.from_columns({"x": column})
        assert [list(item) for item in payload.items] == [[1, 2], [3, 4]]  # type: ignore[arg-type]


def test_a_column_of_single_strings_for_a_tensor_model() -> None:
    inputs = columns_of({"type": "tensor"}, TensorSpec("text", "string", (-1,)))
    payload = inputs.from_columns({"text": ["a", b"b"]})
    assert [item.tolist() for item in payload.items] == ["a", b"b"]  # type: ignore[union-attr]
