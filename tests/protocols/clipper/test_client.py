"""Clipper's users' own code against a real server."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import pytest
from skimage import data

from rayserve_app.examples.image_size import size
from tests.clients import clipper
from tests.protocols import create_model
from tests.protocols.servers import serving


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    model = create_model(size, input={"type": "bytes"}, version="3", protocols=["clipper"])
    with serving(model) as url:
        yield url


@pytest.fixture(scope="module")
def photograph() -> bytes:
    ok, encoded = cv2.imencode(".jpg", data.astronaut())
    assert ok
    return encoded.tobytes()


def test_an_image(url: str, photograph: bytes) -> None:
    clipper.check_image(url, photograph, "(512, 512)", "3")


def test_errors(url: str) -> None:
    clipper.check_errors(url, "m")


def test_feedback(url: str, photograph: bytes) -> None:
    clipper.check_feedback(url, photograph)


def test_metrics(url: str) -> None:
    clipper.check_metrics(url, "m")
