"""What a request may not hold, and what is said of it."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from rayserve_app.errors import (
    DecodeError,
    RequestTooLarge,
    ShapeMismatch,
    UnsupportedContentType,
)
from rayserve_app.media_types import media_type
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.settings.model import InputSettings, LimitSettings
from tests.codecs.test_recordio import part as recordio
from tests.codecs.test_tfrecord import stream_of as tfrecord
from tests.payloads.forms import (
    BOMB,
    JPEG,
    JSON,
    NAMED,
    PHOTO,
    PNG,
    b64,
    create_inputs,
    in_json,
    npy,
    packed,
)


@pytest.mark.parametrize(
    ("inputs", "value", "path", "sentence"),
    [
        (create_inputs("bytes"), ["a?"], "[0]", "not base64"),
        (create_inputs("bytes"), ["YQ==", None], "[1]", "got NoneType"),
        (create_inputs("bytes"), [{"b64": "YQ=", "data": 5}], "[0].data", "a base64 string"),
        (create_inputs("bytes"), {"data": "%"}, "data", "'%' at offset 0"),
        (create_inputs("bytes"), ["YQ==", {}], "[1].data", "missing"),
        (create_inputs("image", "json_metadata"), ['{"data": '], "[0]", "not JSON"),
        (
            create_inputs("bytes", "packed_jpeg"),
            [b64(packed(b"a") + b"\0\0")],
            "[0].images[1]",
            "is cut",
        ),
        (create_inputs("string"), ["a", 5], "[1]", "expected a string, got int"),
        (create_inputs("integers"), [1.5], "input", r"expected int32 \(\*\), got float64 \(1,\)"),
        (create_inputs("integers"), [2**31], "input", "out of range: expected int32"),
        (create_inputs("integers"), [2**63], "input", "out of range: expected int32"),
        (create_inputs("floats"), [1e300], "input", "out of range: expected float32"),
        (create_inputs("floats"), ["a"], "input", "expected float32"),
        (create_inputs("floats"), [[1], ["a"]], "[1].input", "Not an array of numbers"),
        (create_inputs("floats"), [[[1]]], "[0].input", r"expected float32 \(\*\), got int64"),
        (create_inputs("floats"), 5, "input", r"expected float32 \(\*\), got int64 \(\)"),
        (create_inputs("floats"), {"a": 1}, "input", "got object"),
        (create_inputs("doubles"), [None], "input", "got NoneType"),
        (create_inputs("tensor", specs=NAMED[:1]), [1, 2, 3], "a", r"float32 \(2\), got .*\(3,\)"),
        (create_inputs("tensor", specs=NAMED[:1]), [[1, 2], [3]], "[1].a", r"got int64 \(1,\)"),
        (create_inputs("tensor", dtype="uint8", shape=[1]), [-1], "input", "out of range"),
        (create_inputs("tensors", specs=NAMED), [[]], "[0]", "expected an object, got list"),
        (create_inputs("tensors", specs=NAMED), [{"a": 1}], "[0]", r"expected \['a', 'b'\], got"),
        (create_inputs("tensors", specs=NAMED), [{"a": [1, 2, 3], "b": 1}], "[0].a", "float32"),
        (create_inputs("tensors", specs=NAMED), [{"a": [[1], [2, 3]], "b": 1}], "[0].a", "float32"),
        (create_inputs("tensors", specs=NAMED), [{"a": [1, "x"], "b": 1}], "[0].a", "numbers"),
    ],
)
def test_every_fault_in_json_names_its_place(
    inputs: Inputs, value: Any, path: str, sentence: str
) -> None:
    with pytest.raises((DecodeError, ShapeMismatch), match=sentence) as info:
        inputs.from_body(json.dumps(value).encode(), JSON)
    assert info.value.path == path


@pytest.mark.parametrize(
    ("inputs", "content_type", "body", "path", "sentence"),
    [
        (create_inputs("floats"), "text/csv", b"1,2\n3,x\n", "rows[1].input", "numbers"),
        (create_inputs("integers"), "text/csv", b"1\n1.5\n", "rows[1].input", "got float64"),
        (create_inputs("integers"), "text/csv", b"nan\n", "rows[0].input", "got float64"),
        (create_inputs("integers"), "text/csv", b"1e300\n", "rows[0].input", "got float64"),
        (create_inputs("integers"), "text/csv", b"4294967296", "rows[0].input", "out of range"),
        (create_inputs("integers"), "text/csv", b"\xff", "", "UTF-8"),
        (create_inputs("floats"), "application/x-npy", b"1", "", "not a .npy array"),
        (create_inputs("floats"), "application/x-npy", npy(["a"]), "input", "numbers"),
        (create_inputs("tensor"), "application/x-npy", npy(np.zeros(1, "M8[s]")), "input", "numb"),
        (create_inputs("floats"), "application/x-npy", npy(np.ones((1, 1, 1))), "input", "rank"),
        (create_inputs("string"), "text/plain", b"a\xff", "", "expected UTF-8, got byte 1"),
        (create_inputs("string"), "application/json", b"{", "", "not JSON"),
        (
            create_inputs("bytes", "packed_jpeg"),
            None,
            packed(b"a") + b"\0\0\1\0",
            "images[1]",
            "is cut",
        ),
        (create_inputs("bytes", "packed_jpeg"), None, bytes(4), "images", "at least one image"),
        (create_inputs("bytes", "base64"), "text/plain", b"a b", "", "offset 1"),
    ],
)
def test_every_fault_in_a_body_names_its_place(
    inputs: Inputs, content_type: str | None, body: bytes, path: str, sentence: str
) -> None:
    with pytest.raises((DecodeError, ShapeMismatch), match=sentence) as info:
        inputs.from_body(body, content_type)
    assert info.value.path == path


@pytest.mark.parametrize(
    ("kind", "codec", "known"),
    [
        ("bytes", "raw", "application/json or application/octet-stream or text/plain or image/*"),
        (
            "image",
            "packed_jpeg",
            "application/json or application/octet-stream or application/x-npy"
            " or application/x-packed-jpeg or text/plain or image/*",
        ),
        (
            "image",
            "base64",
            "application/json or application/octet-stream or application/x-npy or text/plain"
            " or image/*",
        ),
        ("string", "raw", "application/json or application/octet-stream or text/plain"),
        ("doubles", "raw", "application/json or application/x-npy or text/csv"),
        ("tensors", "raw", "application/json"),
    ],
)
def test_an_unknown_media_type_is_answered_with_the_known(
    kind: str, codec: str, known: str
) -> None:
    with pytest.raises(UnsupportedContentType) as info:
        create_inputs(kind, codec).from_body(b"a=b", "application/x-www-form-urlencoded")
    assert info.value.expected == known


def test_only_models_of_images_take_images() -> None:
    with pytest.raises(UnsupportedContentType):
        create_inputs("string").from_body(PNG, "image/png")


@pytest.mark.parametrize(
    ("kind", "codec", "content_type", "body", "path"),
    [
        ("bytes", "raw", "image/png", BOMB, ""),
        ("image", "raw", None, BOMB, ""),
        ("image", "raw", *in_json(["YQ==", b64(BOMB)]), "[1]"),
        ("string", "base64", "text/plain", base64.b64encode(BOMB), ""),
        ("string", "base64_urlsafe", *in_json([b64(BOMB)]), "[0]"),
        ("string", "json_metadata", *in_json([json.dumps({"data": b64(BOMB)})]), "[0]"),
        ("bytes", "json_metadata", *in_json({"data": b64(BOMB)}), ""),
        ("image", "packed_jpeg", None, packed(PNG, BOMB), "images[1]"),
        ("image", "tfrecord", None, tfrecord(PNG, BOMB), "images[1]"),
        ("image", "recordio", None, recordio(PNG) + recordio(BOMB), "images[1]"),
        ("image", "packed_jpeg", *in_json([b64(packed(PNG, BOMB))]), "[0].images[1]"),
    ],
)
def test_a_decompression_bomb_is_refused_by_its_header_alone(
    kind: str, codec: str, content_type: str | None, body: bytes, path: str
) -> None:
    sentence = "expected at most 50000000 pixels, got 60000 x 60000 = 3600000000"
    with pytest.raises(RequestTooLarge, match=sentence) as info:
        create_inputs(kind, codec).from_body(body, content_type)
    assert info.value.path == path


def test_the_limit_of_pixels_is_the_models() -> None:
    height, width, _ = PHOTO.shape
    create_inputs("bytes", limits={"max_pixels": height * width}).from_body(PNG, None)
    with pytest.raises(RequestTooLarge):
        create_inputs("bytes", limits={"max_pixels": height * width - 1}).from_body(PNG, None)


@pytest.mark.parametrize(
    ("kind", "codec", "content_type", "body"),
    [
        ("bytes", "raw", *in_json(["YQ=="] * 6)),
        ("string", "raw", *in_json(["a"] * 6)),
        ("integers", "raw", *in_json([[1]] * 6)),
        ("integers", "raw", *in_json([[1]] * 5 + [[1, 2]])),
        ("integers", "raw", "text/csv", b"1\n" * 6),
        ("integers", "raw", "application/x-npy", npy(np.ones((6, 1), int))),
        ("integers", "raw", "application/x-npy", npy(np.ones((10**18, 0), int))),
        ("tensors", "raw", *in_json([{}] * 6)),
        ("bytes", "packed_jpeg", None, packed(*[b"a"] * 6)),
        ("bytes", "tfrecord", None, tfrecord(*[b"a"] * 6)),
        ("bytes", "recordio", None, recordio(b"a") * 6),
        ("bytes", "packed_jpeg", *in_json([b64(packed(b"a", b"b"))] * 3)),
    ],
)
def test_more_items_than_a_request_may_carry_are_refused(
    kind: str, codec: str, content_type: str | None, body: bytes
) -> None:
    with pytest.raises(RequestTooLarge, match="at most 5"):
        create_inputs(kind, codec).from_body(body, content_type)


def test_as_many_items_as_a_request_may_carry_are_read() -> None:
    stream = packed(*[b"a"] * 5)
    assert create_inputs("bytes", "packed_jpeg").from_body(stream, None).items == [b"a"] * 5
    assert len(create_inputs("integers").from_json([[1]] * 5).items) == 5


def test_decoding_tells_what_is_no_image() -> None:
    inputs = create_inputs("image")
    for data in (b"", b"no image", JPEG[: len(JPEG) // 2]):
        (item,) = inputs.from_json_item(data)
        with pytest.raises(DecodeError):
            inputs.decode(item)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, ""),
        ("", ""),
        ("text/CSV", "text/csv"),
        (" application/json ; charset=utf-8", "application/json"),
    ],
)
def test_a_media_type_is_read_without_its_parameters(header: str | None, expected: str) -> None:
    assert media_type(header) == expected


def test_a_long_string_among_numbers_costs_nothing() -> None:
    """numpy would make every element as long as the longest string: a hundred gigabytes."""
    with pytest.raises(ShapeMismatch, match="Not an array of numbers"):
        create_inputs("floats").from_json(["a" * 1_000_000, *[0.5] * 100_000])


def test_images_too_large_together_are_refused_before_decoding() -> None:
    inputs = Inputs(InputSettings(type="image"), LimitSettings(max_request_pixels=1000))
    small = inputs.from_json_item(PNG)
    with pytest.raises(RequestTooLarge, match="pixels, got"):
        inputs.check_pixels(small * 2000)
