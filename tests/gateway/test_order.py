"""Where protocols collide, the gateway's order counts, and the model's if the gateway has none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from tests.protocols import create_model
from tests.protocols.servers import serving as serving_model
from tests.servers import serving


@contextmanager
def gateway(of_gateway: dict[str, Any], **of_model: Any) -> Iterator[httpx.Client]:
    def capitals(items: Sequence[str]) -> list[str]:
        return [item.upper() for item in items]

    directory = Directory()
    settings = GatewaySettings(**of_gateway, default_model="m")
    with (
        serving_model(create_model(capitals, input={"type": "string"}, **of_model)) as url,
        serving(Gateway(settings, directory)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        where = Address("127.0.0.1", urlsplit(url).port or 0)
        directory.update([ServedModel("m", "/m", (where,))])
        yield client


@pytest.mark.parametrize(
    ("protocols", "path", "key"),
    [
        (["sagemaker", "cluster_serving"], "/models/m", "modelUrl"),
        (["cluster_serving", "sagemaker"], "/models/m", "redisHost"),
        (["cluster_serving"], "/models/m", "redisHost"),
        (["tensorflow_serving"], "/v1/models/m", "model_version_status"),
        (["simple_tensorflow_serving"], "/v1/models/m", "model_signature"),
        (["multi_model_server"], "/ping", "Healthy"),
        (["clipper"], "/metrics", "counters"),
        (["cluster_serving"], "/metrics", "meanRate"),
    ],
)
def test_the_gateways_first_protocol_answers(protocols: list[str], path: str, key: str) -> None:
    with gateway({"protocols": protocols}) as client:
        assert key in client.get(path).text


@pytest.mark.parametrize(
    ("protocols", "key"),
    [
        (["sagemaker", "cluster_serving"], "modelUrl"),
        (["cluster_serving", "sagemaker"], "redisHost"),
    ],
)
def test_a_gateway_without_an_order_leaves_it_to_the_model(protocols: list[str], key: str) -> None:
    with gateway({}, protocols=protocols) as client:
        assert key in client.get("/models/m").text
