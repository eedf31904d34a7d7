"""What Cluster Serving's client does, against a real server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data

from tests.clients import cluster_serving
from tests.protocols import create_model
from tests.protocols.servers import serving

PHOTOGRAPH = cv2.resize(data.astronaut(), (64, 48))


def means(images: Sequence[Any]) -> dict[str, Any]:
    return {"means": np.stack(images).mean((1, 2))}


@pytest.fixture(scope="module", params=["cluster_serving first", "clipper first"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    protocols = ["cluster_serving", "clipper"]
    if request.param == "clipper first":
        protocols.reverse()
    model = create_model(means, input={"type": "image"}, protocols=protocols)
    with serving(model) as url:
        yield url


def test_an_image(url: str) -> None:
    ok, encoded = cv2.imencode(".png", PHOTOGRAPH[:, :, ::-1])
    assert ok
    cluster_serving.check_image(url, "m", encoded.tobytes(), PHOTOGRAPH.mean((0, 1)))


def test_errors(url: str) -> None:
    cluster_serving.check_errors(url, "m")


def test_models(url: str) -> None:
    cluster_serving.check_models(url, "m")
