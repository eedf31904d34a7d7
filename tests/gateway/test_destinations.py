"""Whose a request is: by its path, by a header, or by the gateway's settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from tests.gateway.test_gateway import replica
from tests.servers import serving

AWS = {"content-type": "application/x-amz-json-1.1"}

NAMES = ("m", "models", "table", "endpoint", "queue")


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """A gateway of models whose prefix is `/at-` and their name."""
    settings = GatewaySettings(
        default_model={
            "simple_tensorflow_serving": "table",
            "sagemaker_runtime": "endpoint",
            "cluster_serving": "queue",
        }
    )
    directory = Directory()
    with (
        serving(replica) as replica_port,
        serving(Gateway(settings, directory)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        address = Address("127.0.0.1", replica_port)
        directory.update(ServedModel(name, f"/at-{name}", (address,)) for name in NAMES)
        yield client


def place(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    path: str = answer.json()["raw_path"]
    return path


@pytest.mark.parametrize("name", ["m", "models"])
def test_a_models_name_may_begin_as_a_path_does(client: httpx.Client, name: str) -> None:
    assert place(client.get(f"/models/{name}")) == f"/at-{name}/models/{name}"
    assert place(client.post(f"/{name}/predict", json={})) == f"/at-{name}/predict"


def test_what_is_posted_to_the_root_is_aws_by_its_header(client: httpx.Client) -> None:
    assert place(client.post("/", json={"data": [1]})) == "/at-table/"
    assert place(client.post("/", json={"model_name": "m"})) == "/at-m/"
    assert place(client.post("/", files={"image": b"x"})) == "/at-table/"
    unknown = client.post("/", json={"model_name": "no-such"})
    assert unknown.status_code == 400
    assert unknown.json()["error"].startswith("Invalid model name: no-such")


@pytest.mark.parametrize("key", ["EndpointName", "EndpointConfigName"])
def test_aws_calls_go_to_the_endpoint_that_they_name(client: httpx.Client, key: str) -> None:
    headers = {**AWS, "x-amz-target": "SageMaker.Describe"}

    def call(body: dict[str, Any]) -> httpx.Response:
        return client.post("/", content=json.dumps(body), headers=headers)

    assert place(call({key: "m"})) == "/at-m/"
    assert place(call({})) == "/at-endpoint/"
    # Which says that there is no such endpoint.
    assert place(call({key: "no-such"})) == "/at-endpoint/"


def test_a_path_of_several_protocols_goes_to_the_first_default_model(
    client: httpx.Client,
) -> None:
    """Clipper claims it first, and has none."""
    assert place(client.post("/predict", json={"instances": []})) == "/at-queue/predict"
