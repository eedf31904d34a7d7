"""From bodies and JSON values to items: every type, in every form in which clients send it."""

from __future__ import annotations

import base64
import io
import itertools
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rayserve_app.errors import (
    DecodeError,
    InvalidRequest,
    RequestTooLarge,
    ShapeMismatch,
)
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.settings.model import InputSettings, LimitSettings
from rayserve_app.types import TensorSpec
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
    columns_of,
    create_inputs,
    encoded,
    in_json,
    npy,
    packed,
)

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
