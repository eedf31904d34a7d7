"""`requests` and curl against Multi Model Server's API of a model behind a real uvicorn."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from tests.clients import multi_model_server as client
from tests.protocols import create_model
from tests.protocols.servers import serving


def brightest(images: Sequence[Any]) -> list[int]:
    return [int(np.asarray(image).max()) for image in images]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    model = create_model(brightest, input={"type": "image"}, protocols=["multi_model_server"])
    with serving(model) as url:
        yield url


def test_images(url: str, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(photographs.astronaut()).save(file, "JPEG")
    client.check_image(url, "m", file.getvalue(), tmp_path)


def test_description(url: str) -> None:
    client.check_description(url, "m")


def test_errors(url: str) -> None:
    client.check_errors(url, "m")
