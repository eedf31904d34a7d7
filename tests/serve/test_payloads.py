"""Real photographs in all four payload forms, answers checked against independent computations."""

from __future__ import annotations

import base64
import io
import json
import re
import struct
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from skimage import data

from rayserve_app.examples.digits import held_back

pytestmark = pytest.mark.serve

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = {
    "astronaut": data.astronaut,
    "chelsea": data.chelsea,
    "coffee": data.coffee,
    "rocket": data.rocket,
}


def encode(pixels: np.ndarray[Any, Any], kind: str) -> bytes:
    """Encode RGB pixels with OpenCV."""
    ok, encoded = cv2.imencode(f".{kind}", pixels[:, :, ::-1])
    assert ok
    return encoded.tobytes()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(params=PHOTOGRAPHS)
def photograph(request: pytest.FixtureRequest) -> np.ndarray[Any, Any]:
    pixels: np.ndarray[Any, Any] = PHOTOGRAPHS[request.param]()
    return pixels


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "bmp", "tiff"])
def test_raw_bytes(client: httpx.Client, photograph: np.ndarray[Any, Any], kind: str) -> None:
    height, width = photograph.shape[:2]
    answer = client.post("/image-example/invocations", content=encode(photograph, kind))
    assert answer.json() == [width, height]


def test_base64_strings(client: httpx.Client, photograph: np.ndarray[Any, Any]) -> None:
    height, width = photograph.shape[:2]
    png, jpeg = text(encode(photograph, "png")), text(encode(photograph, "jpg"))
    answer = client.post("/image-example/predict", json={"input": png})
    assert answer.json()["output"] == f"({width}, {height})"
    assert answer.json()["default"] is answer.json()["use_default"] is False
    batch = client.post("/image-example/predict", json={"input_batch": [png, jpeg]}).json()
    assert [p["output"] for p in batch["batch_predictions"]] == [f"({width}, {height})"] * 2


@pytest.mark.parametrize("wrap", [json.dumps, lambda image: image], ids=["text", "object"])
def test_json_with_metadata(
    client: httpx.Client, photograph: np.ndarray[Any, Any], wrap: Any
) -> None:
    height, width = photograph.shape[:2]
    image = {"data": text(encode(photograph, "png")), "format": "png", "source": "skimage"}
    answer = client.post("/image-example-string/predict", json={"input": wrap(image)})
    assert answer.json()["output"] == f"({width}, {height})"


def test_packed_jpegs(client: httpx.Client) -> None:
    """The three heads equal what TensorFlow gives by hand for pixels that OpenCV decodes."""
    import tensorflow as tf

    jpegs = [encode(cv2.resize(load(), (512, 512)), "jpg") for load in PHOTOGRAPHS.values()]
    packed = b"".join(struct.pack(">I", len(jpeg)) + jpeg for jpeg in jpegs)
    answer = client.post("/yolov3/invocations", content=packed)
    assert answer.headers["content-type"] == "application/x-npy"
    flat = np.load(io.BytesIO(answer.content), allow_pickle=False)
    assert flat.dtype == np.float32

    decoded = [cv2.imdecode(np.frombuffer(j, np.uint8), cv2.IMREAD_COLOR_RGB) for j in jpegs]
    function = tf.saved_model.load(str(ROOT / "models" / "yolov3")).signatures["serving_default"]
    heads = function(images=tf.constant(np.stack(decoded) / 255, tf.float32))
    names = ("conv2d_58", "conv2d_66", "conv2d_74")
    shapes = [(len(jpegs), side, side, 255) for side in (16, 32, 64)]
    assert [tuple(heads[name].shape) for name in names] == shapes
    expected = np.concatenate([heads[name].numpy().ravel() for name in names])
    np.testing.assert_allclose(flat, expected, rtol=1e-3, atol=1e-3)


def test_a_packed_model_takes_a_single_jpeg(client: httpx.Client) -> None:
    jpeg = encode(cv2.resize(data.coffee(), (512, 512)), "jpg")
    one = client.post("/yolov3/invocations", content=struct.pack(">I", len(jpeg)) + jpeg)
    raw = client.post("/yolov3/invocations", content=jpeg, headers={"content-type": "image/jpeg"})
    assert one.content == raw.content


def test_digits_are_read(client: httpx.Client) -> None:
    pngs, labels = held_back()
    encoded = [base64.urlsafe_b64encode(png).decode() for png in pngs]
    answer = client.post("/deep_image_model/predict", json={"input_batch": encoded})
    outputs = [prediction["output"] for prediction in answer.json()["batch_predictions"]]
    right = [output["predict"] == label for output, label in zip(outputs, labels, strict=True)]
    assert sum(right) / len(right) >= 0.95
    assert all(abs(sum(output["probability"]) - 1) < 1e-3 for output in outputs)


def test_a_digit_in_every_form_gives_one_answer(client: httpx.Client) -> None:
    png = held_back()[0][0]
    standard, urlsafe = text(png), base64.urlsafe_b64encode(png).decode()
    bodies: list[dict[str, Any]] = [
        {"content": png, "headers": {"content-type": "image/png"}},
        {"content": standard, "headers": {"content-type": "text/plain"}},
        {"json": standard},
        {"json": urlsafe.rstrip("=")},
        {"json": {"b64": standard}},
        {"json": {"data": standard, "format": "png"}},
    ]
    answers = [client.post("/deep_image_model/invocations", **body) for body in bodies]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["predict"] for answer in answers}) == 1
    probabilities = [answer.json()["probability"] for answer in answers]
    np.testing.assert_allclose(probabilities, [probabilities[0]] * len(bodies), rtol=1e-5)


def test_images_of_unlike_sizes_in_one_request(client: httpx.Client) -> None:
    photographs = [load()[::2, ::2] for load in PHOTOGRAPHS.values()]
    images = [text(encode(pixels, "png")) for pixels in photographs]
    answer = client.post("/colors/invocations", json=images)
    expected = [pixels.mean(axis=(0, 1)) for pixels in photographs]
    np.testing.assert_allclose(answer.json(), expected, atol=1e-3)


@pytest.mark.parametrize("path", ["/image-example", "/image-example/"])
def test_the_models_metadata_without_a_redirect(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.json()["name"] == "image-example"
    assert answer.json()["ready"] is True


def test_times_per_stage_in_a_header(client: httpx.Client) -> None:
    jpeg = encode(data.coffee(), "jpg")
    header = client.post("/colors/invocations", content=jpeg).headers["server-timing"]
    times = dict(re.findall(r"(\w+);dur=([\d.]+)", header))
    assert list(times) == ["queue", "decode", "batch_wait", "predict", "encode"]
    assert float(times["decode"]) > 0
    assert 'desc="1 item"' in header
