"""Unmodified clients of every protocol, at a model's own prefix and at the gateway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data

from rayserve_app.examples import digits_torch
from tests.clients import (
    clipper,
    cluster_serving,
    multi_model_server,
    open_inference,
    sagemaker,
    simple_tensorflow_serving,
    tensorflow_serving,
)
from tests.serve.conftest import ROOT, Server

pytestmark = pytest.mark.serve

PHOTOGRAPHS = [cv2.resize(pixels, (64, 48)) for pixels in (data.astronaut(), data.coffee())]

OUTPUTS = {"colors": np.stack(PHOTOGRAPHS).mean((1, 2)).round(3)}

COLORS = OUTPUTS["colors"].tolist()

MODEL = "colors"
"""The gateway's default model too."""

Base = Callable[[str], str]


def png(pixels: Any) -> bytes:
    ok, encoded = cv2.imencode(".png", pixels[:, :, ::-1])
    assert ok
    return encoded.tobytes()


IMAGES = [png(pixels) for pixels in PHOTOGRAPHS]


@pytest.fixture(params=["model", "gateway"])
def base(server: Server, request: pytest.FixtureRequest) -> Base:
    """Where a model's paths begin: at its own prefix, or at the gateway, where all do."""
    if request.param == "gateway":
        return lambda _: server.url
    return lambda model: f"{server.url}/{model}"


def test_clipper(base: Base) -> None:
    url = base(MODEL)
    clipper.check_image(url, IMAGES[0], COLORS[0], "1")
    clipper.check_errors(url, MODEL)
    clipper.check_feedback(url, IMAGES[0])
    clipper.check_metrics(url, MODEL)


def test_sagemakers_runtime(base: Base) -> None:
    url = base(MODEL)
    sagemaker.check_invocations(url, MODEL, IMAGES[0], "image/png")
    sagemaker.check_errors(url, MODEL, IMAGES[0], "image/png")
    sagemaker.check_unknown_endpoint(url)


@pytest.mark.parametrize("model", [MODEL, "digits"])
def test_sagemakers_control_plane(base: Base, model: str) -> None:
    sagemaker.check_control_plane(base(model), model)
    sagemaker.check_unknown_endpoint_of_the_control_plane(base(model))
    sagemaker.check_unknown_operation(base(model))


def test_sagemakers_asynchronous_invocations(base: Base, server: Server) -> None:
    sagemaker.check_async(base(MODEL), MODEL, IMAGES[0], "image/png", server.folder / "in")


def test_sagemakers_container(base: Base) -> None:
    sagemaker.check_container(base(MODEL), MODEL, IMAGES[0], "image/png")


def test_tensorflow_serving(base: Base) -> None:
    url = base(MODEL)
    tensorflow_serving.check_image(url, MODEL, IMAGES[0], COLORS[0])
    tensorflow_serving.check_model(url, MODEL, "1")
    tensorflow_serving.check_errors(url, MODEL)


def test_tensorflow_servings_classes(base: Base) -> None:
    pixels = np.rint(digits_torch.held_back()[0][0, 0] * 255 / 16).astype(np.uint8)
    classes = classify_digit(pixels)[:3]
    tensorflow_serving.check_classes(base("digits"), "digits", png_of_grey(pixels), classes)


def png_of_grey(pixels: Any) -> bytes:
    ok, encoded = cv2.imencode(".png", pixels)
    assert ok
    return encoded.tobytes()


def classify_digit(pixels: Any) -> list[tuple[str, float]]:
    """Return all classes and their scores by PyTorch alone, the best first."""
    import torch
    from safetensors.torch import load_file

    network = digits_torch.create_network().eval()
    network.load_state_dict(load_file(ROOT / "models" / "digits" / digits_torch.FILE))
    with torch.inference_mode():
        logits = network(torch.from_numpy(pixels.astype(np.float32) * 16 / 255)[None, None])
        scores = torch.softmax(logits.double(), dim=1)[0].tolist()
    return sorted(((str(i), score) for i, score in enumerate(scores)), key=lambda each: -each[1])


def test_open_inference(base: Base) -> None:
    url = base(MODEL)
    open_inference.check_server(url, MODEL)
    open_inference.check_kserve(url, MODEL)
    open_inference.check_images(url, MODEL, IMAGES, OUTPUTS)
    open_inference.check_pixels(url, MODEL, np.stack(PHOTOGRAPHS), OUTPUTS)
    open_inference.check_classes(url, MODEL, IMAGES[0], "colors", COLORS[0])
    open_inference.check_raw(url, MODEL, IMAGES[0], {"colors": OUTPUTS["colors"][:1]})
    open_inference.check_errors(url, MODEL, IMAGES[0])
    open_inference.check_statistics(url, MODEL, IMAGES[0])
    open_inference.check_control(url, MODEL, is_explicit=False)


def test_open_inference_with_asyncio(base: Base) -> None:
    open_inference.check_asyncio(base(MODEL), MODEL, IMAGES, OUTPUTS)


def test_simple_tensorflow_serving(base: Base, tmp_path: Path) -> None:
    url = base(MODEL)
    answer = simple_tensorflow_serving.predict_by_json(url, MODEL, IMAGES)
    assert answer == {"colors": COLORS}
    simple_tensorflow_serving.check_images(url, MODEL, IMAGES[0], tmp_path)
    simple_tensorflow_serving.check_models(url, MODEL)


@pytest.mark.parametrize("language", list(simple_tensorflow_serving.COMMANDS))
def test_simple_tensorflow_servings_generated_clients(
    base: Base, language: str, tmp_path: Path
) -> None:
    if not simple_tensorflow_serving.is_installed(language):
        pytest.skip(f"{language} is not installed")
    url = base(MODEL)
    simple_tensorflow_serving.check_generated_client(url, MODEL, language, tmp_path)


def test_cluster_serving(base: Base) -> None:
    """`frontend` speaks it first; the gateway's `/predict` is its default model's."""
    url = base("frontend")
    cluster_serving.check_image(url, "frontend", IMAGES[0], np.array(COLORS[0]))
    cluster_serving.check_errors(url, "frontend")
    cluster_serving.check_models(url, "frontend")


def test_multi_model_server(base: Base, tmp_path: Path) -> None:
    url = base(MODEL)
    multi_model_server.check_image(url, MODEL, IMAGES[0], tmp_path)
    multi_model_server.check_description(url, MODEL)
    multi_model_server.check_errors(url, MODEL)
