"""From bodies and JSON values to items: every type, in every form in which clients send it."""

from __future__ import annotations

import base64
import io
import itertools
import json
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from rayserve_app.errors import (
    DecodeError,
    InvalidRequest,
    RequestTooLarge,
    ShapeMismatch,
    UnsupportedContentType,
)
from rayserve_app.media_types import media_type
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.settings.model import InputSettings, LimitSettings
from rayserve_app.types import TensorSpec
from tests.codecs.test_recordio import part as recordio
from tests.codecs.test_tfrecord import stream_of as tfrecord

JSON = "application/json"
PHOTO = skimage.data.astronaut()[::8, ::8]


def encoded(image_format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, image_format)
    return file.getvalue()


PNG, JPEG = encoded("PNG"), encoded("JPEG")


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


# 60,000 x 60,000 pixels by its header, and nothing behind it that could be decoded.
BOMB = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))


def packed(*images: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(image)) + image for image in images)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def create_inputs(
    type: str,
    codec: str = "raw",
    *,
    specs: tuple[TensorSpec, ...] = (),
    limits: dict[str, Any] | None = None,
    **settings: Any,
) -> Inputs:
    declared = {"type": type, "codec": codec} | settings
    return Inputs(
        InputSettings.model_validate(declared),
        LimitSettings.model_validate({"max_items": 5} | (limits or {})),
        specs,
    )


def in_json(value: Any) -> tuple[str, bytes]:
    return JSON, json.dumps(value).encode()


# Every body that holds the photograph once: the form, the codec of the model, the body.
FORMS: dict[str, tuple[str, str | None, bytes]] = {
    "its own media type": ("raw", "image/png", PNG),
    "media type with parameters": ("raw", "Image/PNG; q=1", PNG),
    "octets": ("raw", "application/octet-stream", PNG),
    "no media type": ("raw", None, PNG),
    "octets for base64": ("base64", "application/octet-stream", PNG),
    "octets for packed": ("packed_jpeg", "application/octet-stream", PNG),
    "octets for metadata": ("json_metadata", "image/png", PNG),
    "text": ("base64", "text/plain", base64.b64encode(PNG)),
    "no media type, as declared": ("base64", None, base64.b64encode(PNG)),
    "metadata, no media type": ("json_metadata", None, in_json({"data": b64(PNG)})[1]),
    "string": ("raw", *in_json(b64(PNG))),
    "string, unpadded": ("raw", *in_json(b64(PNG).rstrip("="))),
    "string, urlsafe": ("raw", *in_json(base64.urlsafe_b64encode(PNG).decode())),
    "string, urlsafe, unpadded": (
        "base64",
        *in_json(base64.urlsafe_b64encode(PNG).decode().rstrip("=")),
    ),
    "b64": ("raw", *in_json({"b64": b64(PNG)})),
    "b64 for metadata": ("json_metadata", *in_json({"b64": b64(PNG)})),
    "object": ("json_metadata", *in_json({"data": b64(PNG)})),
    "object for raw": ("raw", *in_json({"data": b64(PNG), "format": "png"})),
    "JSON text": ("json_metadata", *in_json(json.dumps({"data": b64(PNG)}))),
    "stream": ("packed_jpeg", "application/x-packed-jpeg", packed(PNG)),
    "ended stream": ("packed_jpeg", None, packed(PNG) + b"\0\0\0\0more"),
    "TFRecord": ("tfrecord", "application/x-tfrecord", tfrecord(PNG)),
    "octets for TFRecord": ("tfrecord", "application/octet-stream", PNG),
    "TFRecord in JSON": ("tfrecord", *in_json(b64(tfrecord(PNG)))),
    "RecordIO": ("recordio", "application/x-recordio", recordio(PNG)),
    "RecordIO without a type": ("recordio", None, recordio(PNG)),
    "stream in JSON": ("packed_jpeg", *in_json(b64(packed(PNG)))),
}


@pytest.mark.parametrize(("codec", "content_type", "body"), FORMS.values(), ids=FORMS)
def test_the_same_image_arrives_as_the_same_item_in_every_form(
    codec: str, content_type: str | None, body: bytes
) -> None:
    pixels = create_inputs("image", codec)
    (item,) = pixels.from_body(body, content_type).items
    decoded = pixels.decode(item)
    if codec == "json_metadata":
        assert isinstance(decoded, dict)
        decoded = decoded["data"]
    np.testing.assert_array_equal(decoded, PHOTO)

    (item,) = create_inputs("bytes", codec).from_body(body, content_type).items
    assert item == ({"data": PNG} if codec == "json_metadata" else PNG)


TEXT_FORMS = {name: form for name, form in FORMS.items() if form[0] in ("base64", "json_metadata")}


@pytest.mark.parametrize(("codec", "content_type", "body"), TEXT_FORMS.values(), ids=TEXT_FORMS)
def test_a_string_model_gets_its_declared_text_of_the_image(
    codec: str, content_type: str | None, body: bytes
) -> None:
    (item,) = create_inputs("string", codec).from_body(body, content_type).items
    assert isinstance(item, str)
    if codec == "base64":
        assert item == b64(PNG)
    else:
        assert json.loads(item) == {"data": b64(PNG)}


def test_the_urlsafe_alphabet_is_kept() -> None:
    inputs = create_inputs("string", "base64_urlsafe")
    for body in (b64(PNG), base64.urlsafe_b64encode(PNG).decode()):
        (item,) = inputs.from_body(body.encode(), "text/plain").items
        assert item == base64.urlsafe_b64encode(PNG).decode()


def test_a_jpeg_is_decoded_as_pillow_decodes_it() -> None:
    inputs = create_inputs("image")
    (item,) = inputs.from_body(JPEG, "image/jpeg").items
    expected = np.asarray(Image.open(io.BytesIO(JPEG)))
    np.testing.assert_allclose(inputs.decode(item), expected, atol=2)


def test_metadata_reaches_a_model_of_images_with_metadata() -> None:
    value = {"format": "png", "data": b64(PNG), "tags": [1, None]}
    item = create_inputs("bytes", "json_metadata").from_json_item(value, path="")
    assert item == [{"data": PNG, "format": "png", "tags": [1, None]}]
    inputs = create_inputs("image", "json_metadata")
    (item,) = inputs.from_json_item(value, path="")
    decoded = inputs.decode(item)
    np.testing.assert_array_equal(decoded.pop("data"), PHOTO)
    assert decoded == {"format": "png", "tags": [1, None]}
    (text,) = create_inputs("string", "json_metadata").from_json_item(value, path="")
    assert json.loads(text) == value


LARGE = PNG + bytes(20_000)
LONG = b64(LARGE)


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        *itertools.product(["bytes", "image"], ["raw", "base64", "json_metadata"]),
        *itertools.product(["string"], ["base64", "base64_urlsafe", "json_metadata"]),
    ],
)
@pytest.mark.parametrize(
    "value",
    [
        LONG,
        {"b64": LONG},
        {"data": LONG, "format": "png", "more": {"data": ["a", None]}},
        [LONG],
        [{"data": LONG, "data2": ""}],
        {"data": b64(PNG), "comment": LONG},
        {"data": b64(PNG), LONG: "comment"},
        LONG.rstrip("=") + "-_",
    ],
)
def test_large_images_in_json_are_read_as_small_ones(kind: str, codec: str, value: Any) -> None:
    inputs = create_inputs(kind, codec)
    for indent in (None, 1):
        body = json.dumps(value, indent=indent).encode()
        assert inputs.from_body(body, JSON) == inputs.from_json(value)


@pytest.mark.parametrize(
    ("body", "error", "sentence"),
    [
        ({"data": b64(BOMB) + "A" * 20_000}, RequestTooLarge, "pixels"),
        (b64(BOMB) + "A" * 20_000, RequestTooLarge, "pixels"),
        (LONG + "?", DecodeError, r"got '\?' at offset"),
        ({"data": LONG + "!"}, DecodeError, r"got '!' at offset .* at `data`"),
        ({"data": [LONG]}, DecodeError, "expected a base64 string, got list"),
        ({"more": {"data": LONG}}, DecodeError, "expected an image in base64 - at `data`"),
        (b'"%s\n"' % LONG.encode(), DecodeError, "not JSON"),
        (b'{"data": "%s"' % LONG.encode(), DecodeError, "not JSON"),
        (b'{"data": "%s"}}' % LONG.encode(), DecodeError, "not JSON"),
        (b'{"data": "%s\xff"}' % LONG.encode(), DecodeError, "not JSON"),
        (b'{"data": "%s", "data": 1}' % LONG.encode(), DecodeError, "got int - at `data`"),
    ],
)
def test_what_is_wrong_with_a_large_image_in_json_is_told(
    body: Any, error: type[Exception], sentence: str
) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(error, match=sentence):
        create_inputs("bytes").from_body(raw, JSON)


def test_json_text_with_metadata_reaches_a_string_model_unchanged() -> None:
    text = json.dumps({"format": "png", "data": b64(PNG)}, indent=2)
    assert create_inputs("string", "json_metadata").from_json_item(text, path="") == [text]


def test_a_stream_is_a_batch_and_a_bare_image_is_not() -> None:
    inputs = create_inputs("bytes", "packed_jpeg")
    assert inputs.from_body(packed(JPEG), None) == ([JPEG], True)
    assert inputs.from_body(packed(JPEG, PNG, b"x"), None) == ([JPEG, PNG, b"x"], True)
    for image_format in ("JPEG", "PNG", "GIF", "WebP", "BMP", "TIFF"):
        image = encoded(image_format)
        assert inputs.from_body(image, None) == ([image], False), image_format


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        in_json(b64(packed(b"a", b"b"))),
        in_json({"b64": b64(packed(b"a", b"b"))}),
        in_json(b64(packed(b"a" * 5000, b"b" * 5000))),
        ("text/plain", b64(packed(b"a", b"b")).encode()),
    ],
)
def test_a_stream_of_many_in_text_is_a_batch(content_type: str, body: bytes) -> None:
    payload = create_inputs("bytes", "packed_jpeg").from_body(body, content_type)
    assert (len(payload.items), payload.is_batch) == (2, True)


def test_a_list_is_a_batch_even_of_one() -> None:
    inputs = create_inputs("bytes")
    assert inputs.from_json([b64(PNG)]) == ([PNG], True)
    assert inputs.from_json(b64(PNG)) == ([PNG], False)
    assert inputs.from_json([]) == ([], True)
    streams = create_inputs("bytes", "packed_jpeg")
    assert streams.from_json([b64(packed(b"a", b"b")), b64(packed(b"c"))]).items == [
        b"a",
        b"b",
        b"c",
    ]


@pytest.mark.parametrize("content_type", ["text/plain", "text/plain; charset=utf-8", None])
def test_text_is_a_string(content_type: str | None) -> None:
    payload = create_inputs("string").from_body("grüße\0".encode(), content_type)
    assert payload == (["grüße\0"], False)


def test_strings_in_json() -> None:
    inputs = create_inputs("string")
    assert inputs.from_body(b'"a"', JSON) == (["a"], False)
    assert inputs.from_body(b'["a", "{b}"]', JSON) == (["a", "{b}"], True)


VECTORS = {"integers": "int32", "floats": "float32", "doubles": "float64"}


@pytest.mark.parametrize(("kind", "dtype"), VECTORS.items())
def test_vectors_come_as_json_csv_and_npy(kind: str, dtype: str) -> None:
    inputs = create_inputs(kind)
    rows = np.array([[1, 2, 3], [4, 5, 6]], dtype)
    bodies = [
        in_json(rows.tolist()),
        ("text/csv", b"1,2,3\n4,5,6\n"),
        ("application/x-npy", npy(rows)),
        (None, json.dumps(rows.tolist()).encode()),
    ]
    for content_type, body in bodies:
        payload = inputs.from_body(body, content_type)
        assert payload.is_batch
        assert [item.dtype for item in payload.items] == [dtype, dtype]
        np.testing.assert_array_equal(payload.items, rows)
    (single,), is_batch = inputs.from_body(npy(rows[0]), "application/x-npy")
    assert not is_batch
    np.testing.assert_array_equal(single, rows[0])


def test_vectors_of_unlike_length_are_a_batch() -> None:
    payload = create_inputs("doubles").from_json([[1.5], [2.5, 3.5], []])
    assert payload.is_batch
    assert [item.tolist() for item in payload.items] == [[1.5], [2.5, 3.5], []]


def test_an_empty_vector_is_one_item() -> None:
    ((item,), is_batch) = create_inputs("integers").from_json([])
    assert (item.dtype, item.shape, is_batch) == (np.int32, (0,), False)


@pytest.mark.parametrize(
    ("spec", "value", "expected"),
    [
        # Nested lists hold one kind of integer only.
        (TensorSpec("x", "uint8", (-1, 2)), [0, 255], np.array([0, 255], np.uint8)),
        (TensorSpec("x", "int64", (-1, 2)), [1, 2], np.array([1, 2])),
        (TensorSpec("x", "float32", (-1, 2)), [1, 2.5], np.array([1, 2.5], np.float32)),
        (TensorSpec("x", "float16", (-1, -1)), [1], np.array([1], np.float16)),
        (TensorSpec("x", "bool", (-1, 2)), [True, False], np.array([True, False])),
        (TensorSpec("x", "", ()), [[1, 2], [3, 4]], np.array([[1, 2], [3, 4]])),
        (TensorSpec("x", "float32", (-1,)), 2, np.float32(2)),
    ],
)
def test_a_tensor_is_brought_to_the_models_type(
    spec: TensorSpec, value: Any, expected: Any
) -> None:
    ((item,), is_batch) = create_inputs("tensor", specs=(spec,)).from_json(value)
    assert not is_batch
    assert item.dtype == expected.dtype
    np.testing.assert_array_equal(item, expected)


def test_strings_are_a_tensor_where_the_model_takes_strings() -> None:
    inputs = create_inputs("tensor", specs=(TensorSpec("x", "string", (-1, 2)),))
    assert [item.tolist() for item in inputs.from_json([["a", "bc"]]).items] == [["a", "bc"]]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        in_json([[1.0, 2.0], [3.0, 4.0]]),
        ("text/csv", b"1,2\r\n3,4"),
        ("application/x-npy", npy(np.array([[1, 2], [3, 4]], ">f4"))),
    ],
)
def test_one_axis_more_is_a_batch(content_type: str, body: bytes) -> None:
    inputs = create_inputs("tensor", specs=(TensorSpec("x", "float32", (-1, 2)),))
    payload = inputs.from_body(body, content_type)
    assert payload.is_batch
    assert [item.tolist() for item in payload.items] == [[1, 2], [3, 4]]


def test_the_yaml_says_what_the_model_does_not() -> None:
    inputs = create_inputs("tensor", dtype="uint8", shape=[2, -1])
    assert inputs.from_json([[1, 2, 3], [4, 5, 6]]).items[0].dtype == np.uint8
    with pytest.raises(ShapeMismatch, match=r"expected uint8 \(2, \*\), got int64 \(3,\)"):
        inputs.from_json([1, 2, 3])


NAMED = (TensorSpec("a", "float32", (-1, 2)), TensorSpec("b", "int64", (-1,)))


def test_tensors_come_by_name() -> None:
    inputs = create_inputs("tensors", specs=NAMED)
    payload = inputs.from_body(b'[{"b": 3, "a": [1, 2]}]', JSON)
    assert payload.is_batch
    (item,) = payload.items
    assert (item["a"].dtype, item["a"].tolist()) == (np.float32, [1, 2])
    assert (item["b"].dtype, item["b"].item()) == (np.int64, 3)


def test_objects_of_python_callers() -> None:
    path = "[0]"
    images = create_inputs("image", layout="CHW")
    np.testing.assert_array_equal(images.from_object(PHOTO, path=path), PHOTO.transpose(2, 0, 1))
    for data in (PNG, bytearray(PNG), memoryview(PNG), b64(PNG), {"b64": b64(PNG)}):
        item = images.from_object(data, path=path)
        np.testing.assert_array_equal(images.decode(item), PHOTO.transpose(2, 0, 1))
    assert create_inputs("string").from_object("a", path=path) == "a"
    assert create_inputs("bytes").from_object(b"\0", path=path) == b"\0"
    for vector in ([1, 2], np.array([1, 2], np.int8)):
        item = create_inputs("integers").from_object(vector, path=path)
        assert (item.dtype, item.tolist()) == (np.int32, [1, 2])
    item = create_inputs("tensors", specs=NAMED).from_object(
        {"a": np.ones(2), "b": np.int32(1)}, path=path
    )
    assert item["a"].dtype == np.float32


@pytest.mark.parametrize(
    ("inputs", "value", "sentence"),
    [
        (create_inputs("image"), np.zeros((2, 2)), r"expected uint8 \(\*, \*, 3\), RGB, got float"),
        (create_inputs("image"), 5, "expected a base64 string or an object with `data`, got int"),
        (create_inputs("image"), BOMB, "too large"),
        (create_inputs("string"), 5, "expected a string, got int"),
        (create_inputs("integers"), np.ones(2), r"expected int32 \(\*\), got float64 \(2,\)"),
        (create_inputs("string"), np.ones(2), "expected a string, got ndarray"),
        (create_inputs("tensors"), np.ones(2), "expected an object, got ndarray"),
        (create_inputs("bytes", "packed_jpeg"), packed(b"a", b"b"), "expected one image, got 2"),
    ],
)
def test_what_a_python_caller_may_not_hand_over(inputs: Inputs, value: Any, sentence: str) -> None:
    if isinstance(value, bytes) and inputs.settings.codec == "packed_jpeg":
        value = b64(value)
    with pytest.raises(InvalidRequest, match=rf"{sentence}.* - at `\[3\]"):
        inputs.from_object(value, path="[3]")


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


IMAGE = TensorSpec("pixels", "float32", (-1, -1, -1, 3))


def columns_of(declared: dict[str, Any], *specs: TensorSpec) -> Inputs:
    return Inputs(InputSettings(**declared), LimitSettings(), specs)


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


def photographs() -> dict[str, Any]:
    names = ("astronaut", "coffee", "chelsea", "rocket", "retina", "hubble_deep_field")
    found = {name: getattr(skimage.data, name)() for name in names}
    samples = load_sample_images()
    return found | dict(zip(("china", "flower"), samples.images, strict=True))


PHOTOGRAPHS = photographs()


def jpeg(pixels: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92, **options)
    return file.getvalue()


def decoded(data: bytes, **settings: Any) -> Any:
    inputs = create_inputs("image", **settings)
    (item,) = inputs.from_json_item(data)
    return inputs.decode(item)


# From just within a reduction, where it tells most, to well within; alike and unlike sides.
FRACTIONS = [(0.25, 0.25), (0.2, 0.24), (0.17, 0.14), (0.125, 0.125), (0.11, 0.1), (0.06, 0.06)]


def full_by_pillow(data: bytes) -> Any:
    with Image.open(io.BytesIO(data)) as picture:
        return np.array(ImageOps.exif_transpose(picture))


def check_near(actual: Any, expected: Any) -> None:
    """Hold the bounds that `decode_reduced` states."""
    difference = np.abs(actual.astype(int) - expected)
    assert difference.mean() <= 2.5
    assert np.percentile(difference, 99) <= 15


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_reduced_decoding_is_near_a_full_one_resized_by_area(
    name: str, fraction: tuple[float, float], subsampling: int
) -> None:
    photo = PHOTOGRAPHS[name]
    data = jpeg(photo, subsampling=subsampling)
    size = [int(photo.shape[axis] * fraction[axis]) for axis in (0, 1)]
    full = full_by_pillow(data)
    expected = cv2.resize(full, size[::-1], interpolation=cv2.INTER_AREA)
    check_near(decoded(data, size=size), expected)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_reduced_decoding_of_turned_photographs_keeps_the_shape_and_the_centre(
    orientation: int,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(PHOTOGRAPHS["china"][:424], exif=exif)  # 640 x 424
    full = full_by_pillow(data)
    stretched = cv2.resize(full, (60, 100), interpolation=cv2.INTER_AREA)
    check_near(decoded(data, size=[100, 60]), stretched)
    # 100 * 640 / 424 is 150.9.
    height, width = (150, 100) if orientation == 6 else (100, 150)
    resized = cv2.resize(full, (width, height), interpolation=cv2.INTER_AREA)
    top, left = (height - 90) // 2, (width - 80) // 2
    actual = decoded(data, size=[90, 80], resize="short_side_crop", short_side=100)
    check_near(actual, resized[top : top + 90, left : left + 80])


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"reduced_decode": "never"}, cv2.INTER_AREA),
        ({"interpolation": "nearest"}, cv2.INTER_NEAREST),
        ({"interpolation": "linear"}, cv2.INTER_LINEAR),
        ({"interpolation": "cubic"}, cv2.INTER_CUBIC),
        ({"interpolation": "lanczos"}, cv2.INTER_LANCZOS4),
    ],
)
def test_another_interpolation_or_never_means_a_full_decode(
    settings: dict[str, Any], method: int
) -> None:
    data = jpeg(PHOTOGRAPHS["flower"])
    full = full_by_pillow(data)
    expected = cv2.resize(full, (40, 40), interpolation=method)
    actual = decoded(data, size=[40, 40], **settings)
    # Two libjpegs may round differently.
    np.testing.assert_allclose(actual.astype(int), expected, atol=3)


def test_an_image_of_the_models_size_is_decoded_into_the_batch() -> None:
    photo = PHOTOGRAPHS["astronaut"]
    inputs = create_inputs("image", size=[512, 512])
    batch = np.zeros((2, 512, 512, 3), np.uint8)
    items = inputs.from_json_item(jpeg(photo)) + inputs.from_json_item(PNG)
    for item, space in zip(items, batch, strict=True):
        array = inputs.decode(item, space)
        assert isinstance(array, np.ndarray)
        assert array.base is batch
    np.testing.assert_array_equal(batch[0], decoded(jpeg(photo)))
    np.testing.assert_array_equal(
        batch[1], cv2.resize(PHOTO, (512, 512), interpolation=cv2.INTER_LINEAR)
    )


def test_a_column_of_unknown_shape_is_counted_along_axis_0() -> None:
    inputs = columns_of({"type": "tensor"}, TensorSpec("x", "", ()))
    for column in ([[1.0, 2.0], [3.0, 4.0]], np.array([[1.0, 2.0], [3.0, 4.0]])):
        payload = inputs.from_columns({"x": column})
        assert [list(item) for item in payload.items] == [[1, 2], [3, 4]]  # type: ignore[arg-type]


def test_a_column_of_single_strings_for_a_tensor_model() -> None:
    inputs = columns_of({"type": "tensor"}, TensorSpec("text", "string", (-1,)))
    payload = inputs.from_columns({"text": ["a", b"b"]})
    assert [item.tolist() for item in payload.items] == ["a", b"b"]  # type: ignore[union-attr]


@pytest.mark.parametrize("codec", ["base64", "base64_urlsafe"])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WebP"])
def test_an_image_without_a_content_type_is_one_for_models_of_base64_too(
    codec: str, image_format: str
) -> None:
    inputs = columns_of({"type": "string", "codec": codec})
    image = encoded(image_format)
    alphabet = b"-_" if codec == "base64_urlsafe" else b"+/"
    text = base64.b64encode(image, alphabet).decode()
    for body in (image, text.encode()):
        (item,) = inputs.from_body(body, None).items
        assert str(item).rstrip("=") == text.rstrip("=")


def test_text_that_is_no_base64_is_refused_without_a_content_type() -> None:
    with pytest.raises(DecodeError):
        columns_of({"type": "string", "codec": "base64"}).from_body(b"no base64!", None)


def test_nan_and_infinities_come_as_pythons_json_writes_them() -> None:
    inputs = create_inputs("doubles")
    values = [1.5, float("nan"), float("-inf"), 3]
    for body, kind in (
        (json.dumps(values), "application/json"),
        ("1.5,nan,-inf,3", "text/csv"),
    ):
        (item,) = inputs.from_body(body.encode(), kind).items
        np.testing.assert_array_equal(item, values)
    with pytest.raises(ShapeMismatch):
        create_inputs("integers").from_body(b"[1, NaN]", "application/json")
    with pytest.raises(DecodeError, match="not JSON"):
        inputs.from_body(b"[1, Nan]", "application/json")


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("uint64", [2**64 - 1, 1]),
        ("uint64", [2**63, 2**53 + 1]),
        ("int64", [-(2**63), 2**63 - 1]),
        (None, [2**64 - 1, 1]),
        (None, [2**53 + 1, -1]),
    ],
)
def test_large_integers_stay_exact(dtype: str | None, values: list[int]) -> None:
    inputs = Inputs(
        InputSettings.model_validate({"type": "tensor", "shape": [2], "dtype": dtype}),
        LimitSettings(),
    )
    for found in (
        inputs.from_body(json.dumps(values).encode(), "application/json").items[0],
        inputs.from_columns({"tensor": [values]}).items[0],
        inputs.from_json_item(values, path="")[0],
    ):
        assert found.tolist() == values
        assert found.dtype.kind in "iu"


@pytest.mark.parametrize("values", [[2**64 - 1, -1], [2**53 + 1, 0.5], [2**64, 1]])
def test_integers_that_no_type_holds_are_refused(values: list[float]) -> None:
    for dtype in ("uint64", "int64"):
        inputs = Inputs(
            InputSettings.model_validate({"type": "tensor", "shape": [2], "dtype": dtype}),
            LimitSettings(),
        )
        with pytest.raises(ShapeMismatch):
            inputs.from_body(json.dumps(values).encode(), "application/json")


def test_a_scalar_input_is_a_number() -> None:
    specs = (TensorSpec("x", "float32", (-1, 2)), TensorSpec("p", "float32", (), False))
    inputs = columns_of({"type": "tensors"}, *specs)
    for value in (0.5, [0.5], [[0.5]], np.array(0.5), np.array([0.5])):
        items = inputs.from_columns({"x": [[1, 2], [3, 4]], "p": value}).items
        assert [item["p"].shape for item in items] == [()] * 2  # type: ignore[union-attr,call-overload]
        (alone,) = inputs.from_json({"x": [1, 2], "p": value}).items
        assert alone["p"] == 0.5  # type: ignore[call-overload]
    for value in ([0.5, 0.5], "a", None):
        with pytest.raises(ShapeMismatch):
            inputs.from_columns({"x": [[1, 2], [3, 4]], "p": value})
