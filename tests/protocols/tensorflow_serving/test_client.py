"""`requests` against TensorFlow Serving's REST API of a model behind a real uvicorn."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from tests.clients import tensorflow_serving as client
from tests.protocols import create_model
from tests.protocols.servers import serving

CLASSES = [("red", 0.75), ("blue", 0.25)]


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(photographs.astronaut()).save(file, "PNG")
    return file.getvalue()


def brightest(images: Sequence[Any]) -> list[int]:
    return [int(np.asarray(image).max()) for image in images]


def classify(images: Sequence[Any]) -> list[Any]:
    return [[{"label": label, "score": score} for label, score in CLASSES] for _ in images]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    model = create_model(
        brightest, input={"type": "image"}, protocols=["tensorflow_serving"], version="7"
    )
    with serving(model) as url:
        yield url


def test_images(url: str) -> None:
    client.check_image(url, "m", png(), int(photographs.astronaut().max()))


def test_status_and_metadata(url: str) -> None:
    client.check_model(url, "m", "7")


def test_errors(url: str) -> None:
    client.check_errors(url, "m")


def test_classes() -> None:
    model = create_model(classify, input={"type": "image"}, protocols=["tensorflow_serving"])
    with serving(model) as url:
        client.check_classes(url, "m", png(), CLASSES)
