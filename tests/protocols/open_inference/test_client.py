"""What Triton's client does, against a real server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import pytest
import tritonclient.http as triton
from skimage import data

from rayserve_app.types import Metadata, TensorSpec
from tests.clients import open_inference
from tests.protocols import create_model
from tests.protocols.servers import serving

PHOTOGRAPHS = [cv2.resize(pixels, (64, 48)) for pixels in (data.astronaut(), data.coffee())]


def encode(pixels: Any) -> bytes:
    ok, encoded = cv2.imencode(".png", pixels[:, :, ::-1])
    assert ok
    return encoded.tobytes()


IMAGES = [encode(pixels) for pixels in PHOTOGRAPHS]

SCORES = np.stack(PHOTOGRAPHS).mean((1, 3), dtype=np.float64).astype(np.float32)
OUTPUTS = {"scores": SCORES, "means": np.stack(PHOTOGRAPHS).mean((1, 2))}


def answer(images: Sequence[Any]) -> dict[str, Any]:
    """Return the mean of each column as its score, and the mean of each channel."""
    batch = np.stack(images)
    scores = batch.mean((1, 3), dtype=np.float64).astype(np.float32)
    return {"scores": scores, "means": batch.mean((1, 2))}


@pytest.fixture(scope="module", params=["none", "explicit"])
def control(request: pytest.FixtureRequest) -> str:
    control: str = request.param
    return control


@pytest.fixture(scope="module")
def url(control: str) -> Iterator[str]:
    model = create_model(
        answer,
        input={"type": "image"},
        protocols=["open_inference"],
        protocol_settings={"open_inference": {"model_control": control}},
    )
    with serving(model) as url:
        yield url


def test_the_server(url: str) -> None:
    open_inference.check_server(url, "m")
    open_inference.check_kserve(url, "m")


def test_images(url: str) -> None:
    open_inference.check_images(url, "m", IMAGES, OUTPUTS)


def test_pixels(url: str) -> None:
    open_inference.check_pixels(url, "m", np.stack(PHOTOGRAPHS), OUTPUTS)


def test_classes(url: str) -> None:
    open_inference.check_classes(url, "m", IMAGES[0], "scores", SCORES[0])


def test_a_raw_body(url: str) -> None:
    first = {name: array[:1] for name, array in OUTPUTS.items()}
    open_inference.check_raw(url, "m", IMAGES[0], first)


def test_errors(url: str) -> None:
    open_inference.check_errors(url, "m", IMAGES[0])


def test_statistics(url: str) -> None:
    open_inference.check_statistics(url, "m", IMAGES[0])


def test_control(url: str, control: str) -> None:
    open_inference.check_control(url, "m", is_explicit=control == "explicit")


def test_asyncio(url: str) -> None:
    open_inference.check_asyncio(url, "m", IMAGES, OUTPUTS)


def test_large_tensors_both_ways() -> None:
    """Twelve megabytes each way, in one tensor that starts at no multiple of its type's size."""
    spec = TensorSpec("x", "float32", (-1, 1_000_000))
    model = create_model(
        lambda items: {"y": np.stack(items) * 2},
        metadata=Metadata("test", (spec,)),
        input={"type": "tensor"},
        protocols=["open_inference"],
        warm_up=False,
    )
    values = np.frombuffer(os.urandom(12_000_000), np.uint8).astype(np.float32)[:3_000_000]
    with serving(model) as url:
        client = triton.InferenceServerClient(open_inference.without_scheme(url))
        tensor = triton.InferInput("x", [3, 1_000_000], "FP32")
        tensor.set_data_from_numpy(values.reshape(3, -1))
        result = client.infer("m", [tensor])
        np.testing.assert_array_equal(result.as_numpy("y"), values.reshape(3, -1) * 2)
        client.close()
