"""The OpenAPI documents of a model and of a gateway, held against what they answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest
from schemathesis import GenerationMode

from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.inference.model import Model
from tests.clients.openapi import MODES, check_operations
from tests.protocols import create_model
from tests.protocols.servers import serving
from tests.servers import serving as serving_app

EXAMPLES = 2


def texts() -> Model:
    def capitals(items: Sequence[str]) -> list[str]:
        return [item.upper() for item in items]

    return create_model(capitals, input={"type": "string"})


def images() -> Model:
    def sizes(items: Sequence[Any]) -> list[list[int]]:
        return [[*item.shape] for item in items]

    return create_model(sizes, input={"type": "image"})


# What is forbidden has no part in what a model takes, and takes long to find.
@pytest.mark.parametrize(("create", "modes"), [(texts, MODES), (images, MODES[:1])])
def test_a_model_answers_as_its_document_says(
    create: Callable[[], Model], modes: Sequence[GenerationMode]
) -> None:
    with serving(create()) as url:
        statuses = check_operations(url, examples=EXAMPLES, modes=modes, model="m", version="1")
    assert statuses[200] > 50


def test_a_gateway_answers_as_its_document_says() -> None:
    directory = Directory()
    with (
        serving(images()) as url,
        serving_app(Gateway(GatewaySettings(), directory)) as port,
    ):
        where = Address("127.0.0.1", urlsplit(url).port or 0)
        directory.update([ServedModel("m", "/m", (where,))])
        known = {"model": "m", "version": "1"}
        statuses = check_operations(f"http://127.0.0.1:{port}", examples=EXAMPLES, **known)
    assert statuses[200] > 50
