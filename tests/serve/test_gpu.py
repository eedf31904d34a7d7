"""configs/gpu.yaml on a machine that claims two GPUs: Ray counts them, TensorFlow finds none.

The models are of a few operations, with the names and shapes of the real ones.
"""

from __future__ import annotations

import base64
import io
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from rayserve_app.operations.kubernetes import render
from tests.serve.conftest import ROOT, Server

pytestmark = pytest.mark.serve

STRIDES = {"conv2d_58": 32, "conv2d_66": 16, "conv2d_74": 8}


def save_models(folder: Path) -> None:
    """Save a detector whose heads are mean colours, and a classifier that tells lengths."""
    import tensorflow as tf

    def pool(images: Any) -> dict[str, Any]:
        return {
            name: tf.nn.avg_pool2d(images, stride, stride, "VALID")
            for name, stride in STRIDES.items()
        }

    def measure(images: Any) -> dict[str, Any]:
        lengths = tf.strings.length(images)
        return {"predict": lengths, "probability": tf.one_hot(lengths % 10, 10)}

    pixels = tf.TensorSpec((None, None, None, 3), tf.float32, name="images")
    strings = tf.TensorSpec((None,), tf.string, name="images")
    signatures = {
        "yolov3": {"serving_default": tf.function(pool, input_signature=[pixels])},
        "deep_image_model": {"images": tf.function(measure, input_signature=[strings])},
    }
    for name, functions in signatures.items():
        tf.saved_model.save(tf.Module(), str(folder / name), signatures=functions)


@pytest.fixture(scope="module")
def gpu_server() -> Iterator[Server]:
    config = yaml.safe_load((ROOT / "configs" / "gpu.yaml").read_text())
    # Not pytest's own folder: Ray's sockets lie below it, and their paths end at 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="rs", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as environment,
    ):
        save_models(Path(folder))
        for application in config["applications"]:
            application["args"]["model"]["path"] = str(Path(folder) / application["name"])
        environment.setenv("RAY_OVERRIDE_RESOURCES", json.dumps({"CPU": 2, "GPU": 2}))
        running = Server(config, Path(folder))
        try:
            running.wait_until_ready()
            yield running
        finally:
            running.stop()


def test_gpus_are_given_as_declared(gpu_server: Server) -> None:
    states = {name: each["status"] for name, each in gpu_server.applications().items()}
    assert states == {"yolov3": "RUNNING", "deep_image_model": "RUNNING"}
    answer = httpx.get(
        f"{gpu_server.dashboard}/api/v0/actors", params={"detail": "1"}, headers=gpu_server.headers
    )
    given = {
        actor["name"].removeprefix("SERVE_REPLICA::").split("#")[0]: resources["GPU"]
        for actor in answer.json()["data"]["result"]["result"]
        if "GPU" in (resources := actor["required_resources"])
    }
    assert given == {"yolov3": 1, "deep_image_model": 0.25}


def test_gpus_are_taken_from_the_machines(gpu_server: Server) -> None:
    """The dashboard learns of them some seconds later."""
    deadline = time.monotonic() + 20
    usage: dict[str, list[float]] = {}
    while usage.get("GPU") != [1.25, 2] and time.monotonic() < deadline:
        time.sleep(0.5)
        status = httpx.get(
            f"{gpu_server.dashboard}/api/cluster_status", headers=gpu_server.headers
        ).json()["data"]
        if status["clusterStatus"]:
            usage = status["clusterStatus"]["loadMetricsReport"]["usage"]
    assert usage["GPU"] == [1.25, 2]


def test_model_on_whole_gpus_answers(gpu_server: Server) -> None:
    """Two grey images, packed; their means are the heads' only values."""
    jpegs = []
    for level in (51, 204):
        file = io.BytesIO()
        Image.new("RGB", (640, 480), (level,) * 3).save(file, "JPEG")
        jpegs.append(file.getvalue())
    body = b"".join(len(jpeg).to_bytes(4, "big") + jpeg for jpeg in jpegs)
    answer = httpx.post(f"{gpu_server.url}/yolov3/invocations", content=body, timeout=30)
    assert answer.status_code == 200, answer.text
    values = np.load(io.BytesIO(answer.content))
    assert values.size == 2 * sum(3 * (512 // stride) ** 2 for stride in STRIDES.values())
    np.testing.assert_allclose(np.unique(values.round(1)), [0.2, 0.8], rtol=1e-6)


def test_model_on_a_share_of_a_gpu_answers(gpu_server: Server) -> None:
    text = base64.urlsafe_b64encode(bytes(21)).decode()
    answer = httpx.post(
        f"{gpu_server.url}/deep_image_model/predict", json={"input": text}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["output"]["predict"] == len(text)


def test_probes_of_the_manifest_answer(gpu_server: Server) -> None:
    """KubeRay's own need `wget`, so the manifest's are ours to prove."""
    ports = {8265: gpu_server.dashboard, 52365: "http://127.0.0.1:52365"}
    cluster = render(gpu_server.config, {}, "image")["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        for kind in ("readinessProbe", "livenessProbe"):
            request = container[kind]["httpGet"]
            base = ports.get(request["port"], gpu_server.url)
            assert httpx.get(base + request["path"]).status_code == 200
