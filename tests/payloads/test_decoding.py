"""Pixels that are decoded in the size that a model takes."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from tests.payloads.forms import PHOTO, PNG, create_inputs, decoded


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
