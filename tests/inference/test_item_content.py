"""An item's content: its bytes, and the hash that only equal items share."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve_app.codecs.json_metadata import EncodedImage
from rayserve_app.inference.item_content import digest, items_bytes, size_bytes
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.settings.model import InputSettings, LimitSettings
from rayserve_app.types import Invocation
from tests.inference.test_model import png

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES, VALUES)
def test_only_equal_values_share_a_hash(left: Any, right: Any) -> None:
    """JSON tells 1 from 1.0 and from true, as a model may."""
    are_equal = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    assert (digest(left) == digest(right)) == are_equal


def test_a_hash_is_the_same_in_whatever_order_a_mapping_was_filled() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_bytes_are_the_same_in_whatever_buffer_they_lie() -> None:
    data = b"some bytes"
    expected = hashlib.sha256(b"bytes 10 some bytes").digest()
    assert digest(data) == digest(bytearray(data)) == digest(memoryview(data)) == expected
    assert digest("some bytes") != expected


@pytest.mark.parametrize(
    "other",
    [
        np.arange(6, dtype=np.int32).reshape(3, 2),
        np.arange(6, dtype=np.int32),
        np.arange(6, dtype=np.uint32).reshape(2, 3),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.arange(1, 7, dtype=np.int32).reshape(2, 3),
        np.arange(6, dtype=np.int32).reshape(2, 3).astype(object),
        np.arange(6, dtype=np.int32).tobytes(),
    ],
)
def test_arrays_differ_by_type_shape_and_content(other: Any) -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert digest(other) != digest(array)
    assert digest(np.asfortranarray(array)) == digest(array)


@pytest.mark.parametrize(
    "value",
    [
        np.array(2.5),
        np.zeros((0, 3)),
        np.array([True, False]),
        np.array(["2026-01-01"], "datetime64[D]"),
        np.array(["a", b"b"], object),
        {"x": np.ones(3), "n": np.array(1)},
        Invocation(b"{}", "application/json"),
        EncodedImage(b"data", {"format": "png"}),
        "\udc80",
    ],
)
def test_whatever_an_item_may_be_has_a_hash(value: Any) -> None:
    assert digest(value) == digest(value)
    assert isinstance(digest(value), bytes)


def test_metadata_and_headers_are_content() -> None:
    assert digest(EncodedImage(b"data", {"top": 3})) != digest(EncodedImage(b"data", {"top": 4}))
    assert digest(Invocation(b"1", "text/csv")) != digest(Invocation(b"1", "application/json"))


@pytest.mark.parametrize("value", [object(), np.array([object()]), {"x": {1, 2}}, {1: 2, "a": 3}])
def test_what_cannot_be_hashed_says_so(value: Any) -> None:
    assert digest(value) is None


def test_what_is_nested_without_end_cannot_be_hashed() -> None:
    value: list[Any] = []
    value.append(value)
    assert digest(value) is None


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (b"abc", 3),
        (bytearray(4), 4),
        (memoryview(np.zeros(5)), 40),
        ("abc", 3),
        (np.zeros((2, 3), np.float32), 24),
        ({"x": np.zeros(3), "n": np.zeros((), np.int64)}, 32),
        (Invocation(b"body", "text/csv"), 12),
        (7, 0),
    ],
)
def test_an_items_bytes_are_those_of_its_buffers(value: Any, size: int) -> None:
    assert size_bytes(value) == size


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"type": "bytes"}, None),
        ({"type": "image"}, 4 * 3 * 3),
        ({"type": "image", "scale": 1.0}, 4 * 3 * 3 * 4),
        ({"type": "image", "color": "gray"}, 4 * 3),
        ({"type": "image", "size": [10, 20]}, 10 * 20 * 3),
        ({"type": "image", "size": [10, 20], "scale": 1.0, "color": "gray"}, 10 * 20 * 4),
    ],
)
def test_images_count_as_the_model_takes_them(settings: dict[str, Any], size: int | None) -> None:
    inputs = Inputs(InputSettings.model_validate(settings), LimitSettings())
    image = png((1, 2, 3))
    items: list[Any] = [image, image]
    if size is None:
        items, size = [image.data, image.data], len(image.data)
    assert items_bytes(inputs, items) == 2 * size


def test_images_for_a_model_that_normalises_count_a_byte_per_value_but_floats_four() -> None:
    settings = InputSettings(type="image", size=(4, 5), scale=1.0)
    inputs = Inputs(settings, LimitSettings(), normalizes_images=False)
    items = [png((1, 2, 3)), np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5, 3), np.float32)]
    assert items_bytes(inputs, items) == 4 * 5 * 3 * (1 + 1 + 4)


def test_an_image_that_came_as_an_array_counts_as_it_is() -> None:
    inputs = Inputs(InputSettings(type="image"), LimitSettings())
    items = [np.zeros((2, 3, 3), np.uint8), EncodedImage(b"no image", {})]
    assert items_bytes(inputs, items) == 18
