"""Packages of SageMaker's TensorFlow container in a real Serve instance, their code unchanged."""

from __future__ import annotations

import copy
import io
import pickle
import shutil
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from skimage import data

from tests.deployments.packages import combine, install_serving_api, save_half_plus_three
from tests.serve.conftest import ROOT, Server
from tests.serve.test_failures import seconds_until

pytestmark = pytest.mark.serve

NETWORK = ROOT / "models" / "yolov3"
JSON = "application/json"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Guide 4's handler with its own gRPC stub, and one that calls the REST API."""
    folder = tmp_path_factory.mktemp("packages")
    packed = combine(folder / "packed", "packed_jpeg")
    shutil.copytree(NETWORK, packed / "yolov3" / "1")
    install_serving_api(packed / "code" / "lib")
    rest = combine(folder / "rest", "rest_caller")
    save_half_plus_three(rest / "half_plus_three" / "00000123")
    return {"packed": packed, "rest": rest, "leaving": rest}


@pytest.fixture(scope="module")
def config(server: Server, packages: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """Serve the packages beside the other models."""
    config = copy.deepcopy(server.config)
    config["applications"] += [
        {
            "name": name,
            "route_prefix": f"/{name}",
            "import_path": "deployments.sagemaker:build",
            "args": {"model": {"path": str(path), "deadline": {"latency_ms": 30_000}}},
            "deployments": [{"name": "Model", "ray_actor_options": {"num_cpus": 0.05}}],
        }
        for name, path in packages.items()
    ]
    server.apply(config)
    try:
        for name in packages:
            seconds_until(partial(is_ready, server, name), 120)
        yield config
    finally:
        server.apply(server.config)


def is_ready(server: Server, name: str) -> bool:
    application = server.applications().get(name, {})
    assert application.get("status") != "DEPLOY_FAILED", application
    return httpx.get(f"{server.url}/{name}/ping", timeout=60).status_code == 200


def listeners(port: int | None) -> set[str]:
    """Return the addresses on which anything of this machine listens at a port."""
    return {
        each.laddr.ip.removeprefix("::ffff:")  # IPv4 by a socket of both kinds, as gRPC's are
        for each in psutil.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN and each.laddr.port == port
    }


def invoke_rest(client: httpx.Client, numbers: list[float], name: str = "rest") -> httpx.Response:
    body = {"instances": numbers}
    return client.post(f"/{name}/invocations", json=body, headers={"accept": JSON})


def test_packed_images_reach_a_stub_in_the_users_code(
    client: httpx.Client, config: dict[str, Any]
) -> None:
    """One flat array, output by output, as TensorFlow gives them by hand."""
    import tensorflow as tf

    stream, batch = b"", []
    for photograph in (data.astronaut(), data.coffee()[:, :400]):
        file = io.BytesIO()
        Image.fromarray(photograph).resize((512, 512)).save(file, "JPEG")
        batch.append(np.asarray(Image.open(file)))
        stream += struct.pack(">I", len(file.getvalue())) + file.getvalue()
    headers = {"content-type": "application/x-packed-jpeg", "accept": "application/x-npy"}
    answer = client.post("/packed/invocations", content=stream, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-npy"

    network = tf.saved_model.load(str(NETWORK)).signatures["serving_default"]
    outputs = network(images=tf.constant(np.stack(batch).astype(np.float32) / 255))
    expected = [outputs[f"conv2d_{number}"].numpy().ravel() for number in (58, 66, 74)]
    flat = pickle.loads(answer.content)
    assert [array.size for array in expected] == [2 * n * n * 255 for n in (16, 32, 64)]
    scale = max(np.abs(array).max() for array in expected)
    np.testing.assert_allclose(flat, np.concatenate(expected), rtol=0, atol=1e-4 * scale)

    refused = client.post("/packed/invocations", content=stream, headers={"content-type": JSON})
    assert refused.status_code == 500
    assert refused.json() == {"error": f"Unsupported content type: {JSON}"}


def test_users_code_calls_the_rest_api(client: httpx.Client, config: dict[str, Any]) -> None:
    """Its requirements are its own, too."""
    answer = invoke_rest(client, [1.0, 2.0, 5.0])
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    assert (told["predictions"], told["versions"]) == ([3.5, 4.0, 5.5], ["123"])
    many = invoke_rest(client, [float(number) for number in range(1000)]).json()
    assert many["predictions"] == [number / 2 + 3 for number in range(1000)]
    assert "," in many["length"]
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda number: invoke_rest(client, [float(number)]), range(40))
        assert [each.json()["predictions"] for each in answers] == [
            [number / 2 + 3] for number in range(40)
        ]
    wrong = client.post("/rest/invocations", json={"instances": ["]["]})
    assert wrong.status_code == 500
    assert "Type: String is not of expected type: float" in wrong.json()["error"]


def test_the_endpoints_are_this_machines_alone_and_go_with_the_application(
    client: httpx.Client, server: Server, config: dict[str, Any]
) -> None:
    told = invoke_rest(client, [1.0], "leaving").json()
    ports = [urlsplit(told["rest_uri"]).port, int(told["grpc_port"])]
    assert [listeners(port) for port in ports] == [{"127.0.0.1"}] * 2
    without = [each for each in config["applications"] if each["name"] != "leaving"]
    server.apply({**config, "applications": without})
    seconds_until(lambda: not any(map(listeners, ports)), 60)
    assert invoke_rest(client, [1.0]).status_code == 200
