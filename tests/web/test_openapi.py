"""The OpenAPI documents: valid, and true of the routes."""

from __future__ import annotations

import pytest
from openapi_spec_validator import validate

from rayserve_app.app import create_app
from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.routes import import_protocols
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.importing import import_from_string
from rayserve_app.settings.protocols import PROTOCOLS
from rayserve_app.web.openapi import create_document
from tests.protocols import call, create_model


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_fragment_has_each_route_of_its_protocol_and_no_other(name: str) -> None:
    protocol = import_from_string(PROTOCOLS[name])
    document = create_document("t", [protocol.fragment()], models=["m"])
    described = {
        (method.upper(), path) for path, item in document["paths"].items() for method in item
    }
    own = {("GET", "/"), ("GET", "/openapi.json"), ("GET", "/metrics")}
    routes = {(r.method, r.path) for r in protocol.ROUTES}
    assert described - own == routes - own


async def test_a_models_document_is_valid_and_says_where_it_is() -> None:
    app = create_app(create_model(lambda items: items, input={"type": "string"}))
    response = await call(app, "GET", "/openapi.json")
    document = response.json()
    validate(document)
    assert document["servers"] == [{"url": "/m"}]
    assert document["info"] == {"title": "m", "version": "1"}
    parameter = document["paths"]["/v2/models/{model}"]["get"]["parameters"][0]
    assert parameter["schema"] == {"type": "string", "enum": ["m"]}


async def test_a_gateways_document_is_valid_and_names_the_models() -> None:
    directory = Directory()
    directory.update([ServedModel("a", "/a", (Address("127.0.0.1", 1),))])
    response = await call(Gateway(GatewaySettings(), directory), "GET", "/openapi.json")
    validate(response.json())
    parameter = response.json()["paths"]["/v2/models/{model}"]["get"]["parameters"][0]
    assert parameter["schema"]["enum"] == ["a"]


def test_operations_have_names_of_their_own() -> None:
    document = create_document(
        "t", [each.fragment() for each in import_protocols(PROTOCOLS)], models=["m"]
    )
    names = [
        operation["operationId"]
        for item in document["paths"].values()
        for operation in item.values()
    ]
    assert len(set(names)) == len(names)
