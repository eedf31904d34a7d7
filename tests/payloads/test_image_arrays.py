"""Images as arrays, in `.npy`, in JSON and from Python: as pixels, or as the model's own."""

from __future__ import annotations

import base64
import io
import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from rayserve_app.errors import DecodeError, RequestTooLarge, ShapeMismatch
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.settings.model import InputSettings, LimitSettings

NPY = "application/x-npy"
PHOTO = skimage.data.astronaut()[::16, ::16]
GRAY = skimage.data.camera()[::16, ::16]
DIGITS = {"color": "gray", "size": [8, 8], "scale": 16 / 255, "layout": "CHW"}


def create_inputs(*, limits: dict[str, Any] | None = None, **settings: Any) -> Inputs:
    return Inputs(
        InputSettings.model_validate({"type": "image"} | settings),
        LimitSettings.model_validate(limits or {}),
    )


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def from_image(inputs: Inputs, pixels: np.ndarray) -> Any:
    """Return what the model gets of the same pixels when they come as an image."""
    (item,) = inputs.from_body(png(pixels), None).items
    return inputs.decode(item)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        DIGITS,
        {"size": [16, 24], "scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
        {"color": "BGR", "layout": "CHW", "size": [40, 40]},
        {"color": "gray"},
    ],
)
@pytest.mark.parametrize("pixels", [PHOTO, GRAY, GRAY[:, :, None]], ids=["RGB", "gray", "axis"])
def test_pixels_are_what_an_image_of_them_would_be(
    settings: dict[str, Any], pixels: np.ndarray
) -> None:
    inputs = create_inputs(**settings)
    expected = from_image(inputs, pixels if pixels.shape[2:] == (3,) else GRAY)
    (item,), is_batch = inputs.from_body(npy(pixels), NPY)
    assert not is_batch
    np.testing.assert_array_equal(item, expected, strict=True)
    np.testing.assert_array_equal(inputs.from_object(pixels, path="[0]"), expected, strict=True)


def test_a_batch_of_pixels_has_one_axis_more() -> None:
    inputs = create_inputs(**DIGITS)
    for batch in (np.stack([PHOTO, PHOTO[::-1]]), np.stack([GRAY, GRAY[::-1]])[..., None]):
        items, is_batch = inputs.from_body(npy(batch), NPY)
        assert is_batch
        for item, pixels in zip(items, batch, strict=True):
            single = inputs.from_object(pixels, path="")
            np.testing.assert_array_equal(item, single, strict=True)


OWN = np.arange(64.0).reshape(1, 8, 8) / 4


@pytest.mark.parametrize("own", [OWN, OWN[0]], ids=["with its channel", "without"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_other_types_are_the_models_own_array(own: np.ndarray, dtype: Any) -> None:
    inputs = create_inputs(**DIGITS)
    array = own.astype(dtype)
    expected = OWN.astype(dtype).astype(np.float32)
    payloads = [
        inputs.from_body(npy(array), NPY),
        ([inputs.from_object(array, path="[0]")], False),
    ]
    if dtype is not np.int64:  # which are pixels in JSON
        payloads += [
            inputs.from_body(json.dumps(array.tolist()).encode(), "application/json"),
            (inputs.from_json_item(array.tolist(), path="input"), False),
            ([inputs.from_object(array.tolist(), path="[0]")], False),
        ]
    for (item,), is_batch in payloads:
        assert not is_batch
        np.testing.assert_array_equal(item, expected, strict=True)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("layout", ["CHW", "HWC"])
def test_a_batch_of_the_models_own_has_one_axis_more(count: int, layout: str) -> None:
    inputs = create_inputs(**(DIGITS | {"layout": layout}))
    axis = 1 if layout == "CHW" else -1
    planes = np.arange(64.0 * count, dtype=np.float32).reshape(count, 8, 8)
    batch = np.expand_dims(planes, axis)
    for array in (batch, planes):
        for payload in (inputs.from_body(npy(array), NPY), inputs.from_json(array.tolist())):
            np.testing.assert_array_equal(np.stack(payload.items), batch, strict=True)
            # (1, 8, 8) is an image with its channel, too.
            is_single = layout == "CHW" and array.shape == (1, 8, 8)
            assert payload.is_batch is not is_single


def test_images_and_arrays_meet_in_one_list() -> None:
    inputs = create_inputs(size=[2, 2])
    own = np.arange(12).reshape(2, 2, 3)
    image = {"b64": base64.b64encode(png(PHOTO)).decode()}
    items, is_batch = inputs.from_json([image, own.tolist()])
    assert is_batch
    assert inputs.decode(items[0]).shape == own.shape
    np.testing.assert_array_equal(items[1], own.astype(np.uint8), strict=True)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((8, 9)), r"\(1, 8, 8\), got float64 \(1, 8, 9\) - at `image`$"),
        (
            np.zeros(64),
            r"expected float32 \(1, 8, 8\) or, as pixels, uint8 \(\*, \*, 3\), RGB, got",
        ),
        (np.zeros((1, 1, 1, 8, 8)), "or, as pixels, uint8"),
        (np.zeros((8, 8, 4), np.uint8), r"Not an image: .* got uint8 \(8, 8, 4\)"),
        (np.zeros((8, 8), np.complex64), "got complex64"),
        (np.full((8, 8), 1e300), "out of range: expected float32"),
    ],
)
def test_an_array_that_is_neither_is_refused(array: np.ndarray, sentence: str) -> None:
    inputs = create_inputs(**DIGITS)
    with pytest.raises(ShapeMismatch, match=sentence):
        inputs.from_body(npy(array), NPY)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([[1, 2], [3]], "Not a rectangular array"),
        ([[1, "2"]], "Not an array of numbers"),
        ([[[[1] * 8] * 8], [[[1] * 8] * 7]], "Not a rectangular array"),
    ],
)
def test_lists_that_are_no_array_are_refused(value: Any, sentence: str) -> None:
    with pytest.raises(ShapeMismatch, match=sentence):
        create_inputs(**DIGITS).from_json(value)


def test_a_bad_image_of_a_batch_is_named() -> None:
    inputs = create_inputs(size=[2, 2])
    with pytest.raises(ShapeMismatch) as info:
        inputs.from_json([[[[1, 2, 300]] * 2] * 2])
    assert info.value.path == "[0]"


@pytest.mark.parametrize("value", [[5], [None], [[]], [["a"]]])
def test_what_is_no_array_is_read_as_images(value: Any) -> None:
    with pytest.raises(DecodeError, match="Not an image in JSON"):
        create_inputs().from_json(value)


def test_a_batch_is_counted_before_it_is_worked_on() -> None:
    tiny = np.zeros((6, 1, 1, 3), np.uint8)
    few = create_inputs(size=[4000, 4000], limits={"max_items": 5, "max_request_pixels": 10**9})
    with pytest.raises(RequestTooLarge, match="Too many items"):
        few.from_body(npy(tiny), NPY)
    small = create_inputs(size=[4000, 4000], limits={"max_request_pixels": 95_999_999})
    with pytest.raises(RequestTooLarge, match="expected at most 95999999 pixels, got 96000000"):
        small.from_body(npy(tiny), NPY)


SETTINGS: list[dict[str, Any]] = [
    {},
    DIGITS,
    {"size": [16, 24], "scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
    {"color": "BGR", "layout": "CHW", "size": [40, 40]},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("codec", ["raw", "base64", "json_metadata", "packed_jpeg"])
def test_integers_in_json_are_pixels(settings: dict[str, Any], codec: str) -> None:
    inputs = create_inputs(codec=codec, **settings)
    expected = from_image(create_inputs(**settings), PHOTO)
    body = json.dumps(PHOTO.tolist()).encode()
    found = [
        inputs.from_body(body, "application/json").items[0],
        inputs.from_json_item(PHOTO.tolist(), path="input")[0],
        inputs.from_json([PHOTO.tolist()]).items[0],
        inputs.from_object(PHOTO.tolist(), path="[0]"),
        inputs.from_columns({"image": [PHOTO.tolist()]}).items[0],
        inputs.from_body(npy(PHOTO), NPY).items[0],
        inputs.from_object(PHOTO, path="[0]"),
    ]
    for item in found:
        array = item["data"] if codec == "json_metadata" else item
        np.testing.assert_array_equal(inputs.decode(array), expected, strict=True)


@pytest.mark.parametrize("codec", ["raw", "base64", "json_metadata", "packed_jpeg"])
def test_every_codec_takes_the_models_own_array(codec: str) -> None:
    inputs = create_inputs(codec=codec, **DIGITS)
    for payload in (
        inputs.from_body(npy(OWN), NPY),
        inputs.from_body(json.dumps(OWN.tolist()).encode(), "application/json"),
        inputs.from_columns({"image": OWN[None].tolist()}),
    ):
        (item,) = payload.items
        array = item["data"] if codec == "json_metadata" else item
        np.testing.assert_array_equal(array, OWN.astype(np.float32), strict=True)


@pytest.mark.parametrize("number", [-1, 256])
def test_integers_that_are_no_pixels_are_refused(number: int) -> None:
    sentence = r"Integers are pixels: expected 0 to 255, got .* decimal point\.$"
    with pytest.raises(ShapeMismatch, match=sentence):
        create_inputs(**DIGITS).from_json([[number] * 8] * 8)


SHAPES_OF_INPUTS: list[dict[str, Any]] = [
    {},
    DIGITS,
    {"color": "BGR", "layout": "CHW"},
    {"size": [8, 8]},
    {"size": [4, 6], "interpolation": "lanczos", "scale": 0.5},
    {"size": [8, 8], "resize": "short_side_crop", "short_side": 10},
]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0, 3), (1, 0, 0), (3, 0, 8), (8, 8, 0)])
@pytest.mark.parametrize("settings", SHAPES_OF_INPUTS)
def test_an_array_without_pixels_is_refused(
    settings: dict[str, Any], shape: tuple[int, ...], dtype: str
) -> None:
    inputs = create_inputs(**settings)
    array = np.zeros(shape, dtype)
    with pytest.raises(ShapeMismatch):
        inputs.from_object(array, path="[0]")
    with pytest.raises(ShapeMismatch):
        inputs.from_body(npy(array), NPY)
    with pytest.raises(ShapeMismatch):
        inputs.from_columns({"image": array[None]})


@pytest.mark.parametrize("dtype", ["uint8", "float64", "int16", "bool", "c8", "U2", "M8[s]", "O"])
@pytest.mark.parametrize("settings", SHAPES_OF_INPUTS)
def test_whatever_array_comes_is_read_or_refused(settings: dict[str, Any], dtype: str) -> None:
    """OpenCV asserts on sides, channels and types that it does not know; no caller sees that."""
    inputs = create_inputs(**settings)
    shapes = [(), (3,), (1, 1), (2, 3, 1), (3, 4, 5), (5, 4, 3), (1, 3, 3, 3), (2, 4, 4, 4, 4)]
    if dtype == "uint8":
        shapes += [(1, 300_000), (40_000, 2, 3)]
    for shape in shapes:
        plain = np.zeros(shape, dtype)
        for array in (plain, np.asfortranarray(plain).T, plain[::-1] if shape else plain):
            with suppress(ShapeMismatch, RequestTooLarge, DecodeError):
                assert inputs.from_object(array, path="[0]").size
            with suppress(ShapeMismatch, RequestTooLarge, DecodeError):
                items = inputs.from_columns({"image": array}).items
                # One axis of bytes is a file, not pixels.
                assert array.ndim == 1 or all(np.size(item) for item in items)
