"""Models of every framework side by side in one Serve instance, and models that do not load."""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from skimage import data
from sklearn.datasets import load_digits

from rayserve_app.artifacts.mxnet_environment import find_python
from tests.serve.conftest import Server

pytestmark = pytest.mark.serve

ROOT = Path(__file__).parents[2]

EMBED_BY_HAND = """
import json
import sys

from rayserve_app.artifacts.mxnet_environment import import_mxnet

mx = import_mxnet()
net = mx.gluon.model_zoo.vision.get_model("resnet18_v2")
net.load_parameters("models/resnet-embedding/resnet18_v2.params")
for path in sys.argv[1:]:
    image = mx.image.resize_short(mx.image.imread(path), 256)
    image, _ = mx.image.center_crop(image, (224, 224))
    image = mx.image.color_normalize(
        image.astype("float32") / 255,
        mx.nd.array([0.485, 0.456, 0.406]),
        mx.nd.array([0.229, 0.224, 0.225]),
    )
    print(json.dumps(net.features(image.transpose((2, 0, 1)).expand_dims(0))[0].asnumpy().tolist()))
"""


def jpeg(pixels: Any) -> bytes:
    ok, encoded = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert ok
    return encoded.tobytes()


def test_mxnets_embedding_is_what_mxnet_gives_by_hand(client: httpx.Client, tmp_path: Path) -> None:
    python = find_python(os.environ, Path(sys.prefix))
    paths = []
    for name, load in (("cat", data.chelsea), ("coffee", data.coffee), ("rocket", data.rocket)):
        paths.append(tmp_path / f"{name}.jpg")
        paths[-1].write_bytes(jpeg(load()))
    run = subprocess.run(
        [python, "-c", EMBED_BY_HAND, *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    expected = [json.loads(line) for line in run.stdout.splitlines()]
    for path, embedding in zip(paths, expected, strict=True):
        answer = client.post("/resnet-embedding/invocations", content=path.read_bytes())
        assert answer.headers["content-type"] == "application/json"
        scale = np.abs(embedding).max()
        np.testing.assert_allclose(answer.json(), embedding, rtol=0, atol=1e-4 * scale)


def held_back_digits() -> tuple[Any, Any]:
    digits = load_digits()
    return digits.images[-50:], digits.target[-50:]


def test_pytorchs_digits_are_named_from_images_and_from_numbers(client: httpx.Client) -> None:
    images, targets = held_back_digits()
    numbers = client.post("/digits/invocations", json=images.tolist()).json()
    assert [len(best) for best in numbers] == [3] * len(images)
    right = sum(best[0]["label"] == str(t) for best, t in zip(numbers, targets, strict=True))
    assert right >= 0.9 * len(images)
    scores = [each["score"] for each in numbers[0]]
    assert scores == sorted(scores, reverse=True)
    assert 0 < sum(scores) <= 1.000001

    # 0..16 as pixels 0..255, which the model's settings scale back; PNG loses nothing.
    for image, best in zip(images[:10], numbers, strict=False):
        ok, png = cv2.imencode(".png", np.rint(image * 255 / 16).astype(np.uint8))
        assert ok
        answer = client.post("/digits/invocations", content=png.tobytes()).json()
        assert answer[0]["label"] == best[0]["label"]


def test_a_sagemaker_package_runs_as_it_is(client: httpx.Client) -> None:
    """`model * 2`, with the toolkit's own decoders and encoders."""
    answer = client.post("/doubling/invocations", json=[1, 2, 3])
    assert (answer.status_code, answer.text) == (200, "[2, 4, 6]")
    lines = client.post(
        "/doubling/invocations",
        content="1,2,3\n4,5,6",
        headers={"content-type": "text/csv", "accept": "text/csv"},
    )
    assert lines.text == "2,4,6\n8,10,12\n"
    refused = client.post(
        "/doubling/invocations", content=b"x", headers={"content-type": "image/x"}
    )
    assert refused.status_code == 500
    assert refused.text.startswith("Content type image/x is not supported by this framework.")
    assert client.get("/doubling/ping").status_code == 200


def test_closures_with_conflicting_packages_serve_side_by_side(client: httpx.Client) -> None:
    for _ in range(3):
        for version in ("4.9.0", "4.11.0"):
            answer = client.post(f"/humanize-{version.replace('.', '-')}/invocations", json="a")
            assert answer.json() == version, answer.text


def failed(server: Server, name: str) -> str | None:
    """Return what Serve says of an application's deployment, once it has failed."""
    application = server.applications().get(name, {})
    if application.get("status") != "DEPLOY_FAILED":
        return None
    message: str = application["deployments"]["Model"]["message"]
    return message


def test_models_that_do_not_load_are_told_by_name_and_leave_others_alone(
    client: httpx.Client, server: Server, tmp_path: Path
) -> None:
    truncated = tmp_path / "net.safetensors"
    whole = (ROOT / "models" / "digits").glob("*.safetensors")
    truncated.write_bytes(next(whole).read_bytes()[:1000])
    raising = tmp_path / "package" / "code"
    raising.mkdir(parents=True)
    (raising / "inference.py").write_text("raise RuntimeError('no such license')\n")
    models: dict[str, tuple[str, dict[str, Any], str]] = {
        "cut-short": (
            "deployments.torch:build",
            {
                "path": str(truncated),
                "module": "rayserve_app.examples.digits_torch:create_network",
                "input": {"type": "tensor"},
            },
            "cut-short",
        ),
        "no-signature": (
            "deployments.tensorflow:build",
            {"path": "models/yolov3", "signature": "none", "input": {"type": "image"}},
            "Unknown signature",
        ),
        "raises": (
            "deployments.sagemaker:build",
            {"path": str(raising.parent)},
            "no such license",
        ),
        "no-package": (
            "deployments.closure:build",
            {
                "function": "rayserve_app.examples.image_size:size",
                "packages": ["no-such-package-of-ours==1.0"],
                "input": {"type": "bytes"},
            },
            "no-such-package-of-ours",
        ),
    }
    config = copy.deepcopy(server.config)
    config["applications"] += [
        {
            "name": name,
            "route_prefix": f"/{name}",
            "import_path": import_path,
            "args": {"model": model},
            "deployments": [{"name": "Model", "ray_actor_options": {"num_cpus": 0.01}}],
        }
        for name, (import_path, model, _) in models.items()
    ]
    photograph = jpeg(data.chelsea())
    server.apply(config)
    try:
        started_at = time.monotonic()
        messages: dict[str, str] = {}
        while len(messages) < len(models):
            assert time.monotonic() - started_at < 120, (messages, server.applications())
            answer = client.post("/image-example/invocations", content=photograph)
            assert answer.json() == [451, 300]
            for name in models.keys() - messages.keys():
                if message := failed(server, name):
                    messages[name] = message
            time.sleep(0.5)
        for name, (_, _, sentence) in models.items():
            assert name in messages[name]
            assert sentence in messages[name]
    finally:
        server.apply(server.config)


def test_npy_pixels_are_an_image_as_well(client: httpx.Client) -> None:
    images, _ = held_back_digits()
    pixels = np.rint(images[0] * 255 / 16).astype(np.uint8)
    body = io.BytesIO()
    np.save(body, np.repeat(pixels[:, :, None], 3, axis=2))
    answer = client.post(
        "/digits/invocations",
        content=body.getvalue(),
        headers={"content-type": "application/x-npy"},
    )
    numbers = client.post("/digits/invocations", json=images[0].tolist())
    assert answer.json()[0]["label"] == numbers.json()[0]["label"], answer.text
