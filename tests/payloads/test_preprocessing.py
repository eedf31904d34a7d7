"""Preprocessing against numpy, OpenCV and Pillow."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data

from rayserve_app.errors import ShapeMismatch
from rayserve_app.payloads.preprocessing import Preprocessing
from rayserve_app.settings.model import InputSettings

PHOTO = skimage.data.astronaut()[:120, 100:260]  # 120 x 160


def preprocess(pixels: Any = PHOTO, **settings: Any) -> Any:
    return Preprocessing(InputSettings.model_validate({"type": "image"} | settings))(pixels)


def test_pixels_stay_what_they_are_where_nothing_is_asked_for() -> None:
    np.testing.assert_array_equal(preprocess(), PHOTO, strict=True)


@pytest.mark.parametrize(
    ("height", "width", "method"),
    [
        (60, 80, cv2.INTER_AREA),
        (60, 160, cv2.INTER_AREA),
        (240, 320, cv2.INTER_LINEAR),
        (60, 320, cv2.INTER_LINEAR),
    ],
)
def test_images_shrink_by_area_and_grow_bilinearly(height: int, width: int, method: int) -> None:
    expected = cv2.resize(PHOTO, (width, height), interpolation=method)
    np.testing.assert_array_equal(preprocess(size=[height, width]), expected, strict=True)


@pytest.mark.parametrize("size", [(60, 80), (240, 320), (60, 320)])
@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("nearest", cv2.INTER_NEAREST),
        ("linear", cv2.INTER_LINEAR),
        ("cubic", cv2.INTER_CUBIC),
        ("lanczos", cv2.INTER_LANCZOS4),
    ],
)
def test_another_interpolation_holds_both_ways(
    name: str, method: int, size: tuple[int, int]
) -> None:
    actual = preprocess(size=size, interpolation=name)
    expected = cv2.resize(PHOTO, size[::-1], interpolation=method)
    assert actual.dtype == np.uint8
    # Cubic, OpenCV's own code and Intel's round otherwise.
    np.testing.assert_allclose(actual.astype(int), expected, atol=1 if name == "cubic" else 0)


@pytest.mark.parametrize("size", [(60, 80), (240, 320), (71, 97)])
def test_cubic_pixels_are_the_same_with_and_without_intels_library(size: tuple[int, int]) -> None:
    results = []
    before = cv2.ipp.useIPP()
    try:
        for uses_ipp in (True, False):
            cv2.ipp.setUseIPP(uses_ipp)
            results.append(preprocess(size=size, interpolation="cubic"))
            assert cv2.ipp.useIPP() == (uses_ipp and before)
    finally:
        cv2.ipp.setUseIPP(before)
    np.testing.assert_array_equal(*results)


def test_the_short_side_is_interpolated_as_asked_for() -> None:
    actual = preprocess(
        size=[60, 60], resize="short_side_crop", short_side=60, interpolation="cubic"
    )
    np.testing.assert_array_equal(
        actual, preprocess(size=[60, 80], interpolation="cubic")[:, 10:70], strict=True
    )


def test_halving_by_area_is_the_mean_of_four_pixels() -> None:
    expected = PHOTO.reshape(60, 2, 80, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(preprocess(size=[60, 80]), expected, atol=1)


@pytest.mark.parametrize("portrait", [False, True])
def test_the_centre_is_cut_after_the_short_side_is_resized(portrait: bool) -> None:
    photo = np.ascontiguousarray(PHOTO.transpose(1, 0, 2)) if portrait else PHOTO
    resized = cv2.resize(photo, (60, 80) if portrait else (80, 60), interpolation=cv2.INTER_AREA)
    top, left = (20, 10) if portrait else (10, 20)
    expected = resized[top : top + 40, left : left + 40]
    actual = preprocess(photo, size=[40, 40], resize="short_side_crop", short_side=60)
    np.testing.assert_array_equal(actual, expected, strict=True)


def test_a_crop_larger_than_the_image_is_filled_by_enlarging() -> None:
    actual = preprocess(size=[100, 40], resize="short_side_crop", short_side=60)
    wide = cv2.resize(PHOTO, (80, 60), interpolation=cv2.INTER_AREA)
    tall = cv2.resize(wide, (80, 100), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(actual, tall[:, 20:60], strict=True)


@pytest.mark.parametrize("shape", [(1, 65_535, 3), (50_000, 2, 3)])
def test_a_line_of_pixels_does_not_fill_the_memory(shape: tuple[int, ...]) -> None:
    line = np.zeros(shape, np.uint8)
    assert preprocess(line, size=[8, 8]).shape == (8, 8, 3)
    with pytest.raises(ShapeMismatch, match="expected sides of at most 32 to 1"):
        preprocess(line, size=[8, 8], resize="short_side_crop", short_side=256)


def test_colours() -> None:
    np.testing.assert_array_equal(preprocess(color="BGR"), PHOTO[:, :, ::-1], strict=True)
    gray = preprocess(color="gray")
    assert (gray.shape, gray.dtype) == ((120, 160, 1), np.uint8)
    np.testing.assert_allclose(gray[:, :, 0], cv2.cvtColor(PHOTO, cv2.COLOR_RGB2GRAY), atol=1)


def test_gray_is_rounded_not_cut() -> None:
    white = np.full((2, 2, 3), 255, np.uint8)
    assert (preprocess(white, color="gray") == 255).all()


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"scale": 1 / 255}, PHOTO / 255),
        ({"mean": [1, 2, 3]}, PHOTO - np.array([1, 2, 3.0])),
        ({"std": [2, 4, 8]}, PHOTO / np.array([2, 4, 8.0])),
        ({"scale": 1 / 255, "mean": MEAN, "std": STD}, (PHOTO / 255 - MEAN) / STD),
        (
            # mean and std are given in the order of the model's channels.
            {"scale": 1 / 255, "mean": MEAN, "std": STD, "color": "BGR"},
            (PHOTO[:, :, ::-1] / 255 - MEAN) / STD,
        ),
    ],
)
def test_scale_then_mean_then_std(settings: dict[str, Any], expected: Any) -> None:
    actual = preprocess(**settings)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_gray_takes_the_first_mean_and_std() -> None:
    gray = preprocess(color="gray").astype(float)
    actual = preprocess(color="gray", mean=[10, 0, 0], std=[2, 1, 1])
    assert actual.shape == (120, 160, 1)
    np.testing.assert_allclose(actual, (gray - 10) / 2, rtol=1e-5)


def test_channels_first() -> None:
    actual = preprocess(layout="CHW", size=[60, 80], color="BGR", scale=0.5)
    area = cv2.resize(PHOTO, (80, 60), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(actual, area[:, :, ::-1].transpose(2, 0, 1) * 0.5)
    assert actual.flags.c_contiguous


@pytest.mark.parametrize("settings", [{"color": "BGR"}, {"layout": "CHW"}, {}])
def test_the_callers_pixels_stay_and_the_result_is_contiguous(settings: dict[str, Any]) -> None:
    before = PHOTO.copy()
    assert preprocess(**settings).flags.c_contiguous
    np.testing.assert_array_equal(PHOTO, before)


def test_pixels_that_need_nothing_are_the_result_itself() -> None:
    own = PHOTO.copy()
    plain = Preprocessing(InputSettings(type="image", size=(120, 160)))
    assert plain(own) is own
    assert plain(own, own) is own
    own.flags.writeable = False
    assert plain(own) is not own


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": [60, 80]},
        {"size": [60, 60], "resize": "short_side_crop", "short_side": 90},
        {"color": "BGR"},
        {"color": "gray", "scale": 0.5},
        {"layout": "CHW"},
        {"layout": "CHW", "mean": MEAN, "std": STD},
        {"layout": "CHW", "color": "gray", "mean": [1, 2, 3]},
        {"mean": MEAN, "std": STD},
    ],
)
def test_a_batch_is_filled_in_place(settings: dict[str, Any]) -> None:
    expected = preprocess(**settings)
    batch = np.zeros((3, *expected.shape), expected.dtype)
    function = Preprocessing(InputSettings.model_validate({"type": "image"} | settings))
    assert function(PHOTO, batch[1]).base is batch
    np.testing.assert_array_equal(batch[1], expected, strict=True)
    assert not batch[::2].any()


@pytest.mark.parametrize(
    "settings", [{"layout": "CHW"}, {"color": "BGR"}, {"layout": "CHW", "color": "BGR"}]
)
def test_pixels_of_the_results_shape_may_lie_where_the_result_goes(
    settings: dict[str, Any],
) -> None:
    square = PHOTO[:3, :3].copy()
    expected = preprocess(square, **settings).copy()
    function = Preprocessing(InputSettings.model_validate({"type": "image"} | settings))
    np.testing.assert_array_equal(function(square, square), expected)


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
@pytest.mark.parametrize("color", ["RGB", "BGR", "gray"])
def test_pixels_for_a_model_that_normalises_are_as_if_nothing_were_to_be_normalised(
    layout: str, color: str
) -> None:
    declared = {"type": "image", "size": [60, 80], "layout": layout, "color": color}
    settings = InputSettings.model_validate(declared | {"scale": 0.5, "mean": MEAN, "std": STD})
    function = Preprocessing(settings, normalizes=False)
    np.testing.assert_array_equal(function(PHOTO), preprocess(**declared), strict=True)
    assert (function.dtype, function.normalized_dtype) == (np.uint8, np.float32)


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
def test_grey_arrays_of_one_channel_seen_as_three(layout: str) -> None:
    seen = np.broadcast_to(PHOTO[:, :, :1], PHOTO.shape)
    for settings in ({"scale": 0.5}, {"color": "BGR"}, {"size": [60, 80]}, {"mean": MEAN}):
        np.testing.assert_array_equal(
            preprocess(seen, layout=layout, **settings),
            preprocess(seen.copy(), layout=layout, **settings),
        )


@pytest.mark.parametrize(
    ("settings", "least_size"),
    [
        ({}, None),
        ({"size": [224, 320]}, (448, 640)),
        ({"size": [224, 200], "resize": "short_side_crop", "short_side": 256}, (512, 512)),
        ({"size": [224, 224], "reduced_decode": "never"}, None),
        ({"size": [224, 224], "interpolation": "cubic"}, None),
        ({"size": [224, 224], "interpolation": "nearest"}, None),
        ({"size": [224, 224], "interpolation": "cubic", "reduced_decode": "always"}, (448, 448)),
    ],
)
def test_images_keep_twice_the_size_that_they_are_resized_to(
    settings: dict[str, Any], least_size: tuple[int, int] | None
) -> None:
    function = Preprocessing(InputSettings.model_validate({"type": "image"} | settings))
    assert function.least_size == least_size


def test_always_to_reduce_needs_a_size() -> None:
    with pytest.raises(ValueError, match="'reduced_decode' needs 'size'"):
        InputSettings(type="image", reduced_decode="always")


@pytest.mark.parametrize("method", ["area", "linear", "cubic", "lanczos"])
@pytest.mark.parametrize("by", [2, 4, 8])
@pytest.mark.parametrize("rows", [(8, 1), (8, 5), (9, 7)])
def test_a_row_beyond_the_edge_does_not_shift_a_reduced_image(
    method: str, by: int, rows: tuple[int, int]
) -> None:
    """A slope of brightness, averaged over blocks, is the same slope: its middle stays its
    middle."""
    height, width = (int(side * 8 + more) for side, more in ((20, rows[0]), (30, rows[1])))
    y, x = np.mgrid[: -(-height // by), : -(-width // by)]
    slope = ((y + 0.5) * by / height * 120 + (x + 0.5) * by / width * 120)[..., None]
    size = [height // by // 2, width // by // 2]
    pixels = np.rint(np.repeat(slope, 3, axis=2)).astype(np.uint8)
    function = Preprocessing(
        InputSettings(type="image", size=size, interpolation=method, reduced_decode="always")
    )
    actual = function(pixels, extent=(height / by, width / by))
    y, x = np.mgrid[: size[0], : size[1]]
    expected = (y + 0.5) / size[0] * 120 + (x + 0.5) / size[1] * 120
    np.testing.assert_allclose(actual[1:-1, 1:-1, 0], expected[1:-1, 1:-1], atol=1.25)
