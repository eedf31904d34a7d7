"""A mistyped model or path is answered with one sentence that has the nearest names, in the form of
the errors of the protocol whose path it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from rayserve_app.app import App, create_app
from rayserve_app.importing import import_from_string
from rayserve_app.inference.warm_up import BLACK_PNG
from rayserve_app.media_types import JSON
from rayserve_app.protocols.protocol import LISTED_NAMES
from rayserve_app.settings.protocols import PROTOCOLS
from tests.protocols import call, create_model

AWS = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "SageMaker.DescribeEndpoint"}

MODELS: list[tuple[str, str, int, Callable[[Any], str]]] = [
    ("POST", "/v2/models/digts/infer", 404, lambda body: body["error"]),
    ("GET", "/v2/models/digts", 404, lambda body: body["error"]),
    ("GET", "/v2/models/Digits/config", 404, lambda body: body["error"]),
    ("POST", "/v1/models/digts:predict", 404, lambda body: body["error"]),
    ("GET", "/v1/models/digts/metadata", 404, lambda body: body["error"]),
    ("POST", "/predictions/digts", 404, lambda body: body["message"]),
    ("POST", "/models/digts/invoke", 404, lambda body: body["error"]),
    ("GET", "/models/digts", 404, lambda body: body["error"]),
    ("DELETE", "/models/digts", 404, lambda body: body["error"]),
    ("POST", "/endpoints/digts/invocations", 400, lambda body: body["Message"]),
]

PATHS = [
    ("POST", "/predit", "/predict"),
    ("POST", "/invocation", "/invocations"),
    ("POST", "/v2/model/digits/infer", "/v2/models/digits/infer"),
    ("POST", "/v2/models/digits/infr", "/v2/models/digits/infer"),
    ("POST", "/v1/model/digits:predict", "/v1/models/digits:predict"),
    ("GET", "/pnig", "/ping"),
]


def create() -> App:
    model = create_model(
        lambda items: [1] * len(items), input={"type": "string"}, protocols=list(PROTOCOLS)
    )
    model.name = "digits"
    return create_app(model)


@pytest.mark.parametrize(("method", "path", "status", "sentence"), MODELS)
async def test_a_mistyped_model_is_told_with_the_nearest(
    method: str, path: str, status: int, sentence: Callable[[Any], str]
) -> None:
    response = await call(create(), method, path, content=b"{}")
    assert response.status_code == status
    text = sentence(response.json())
    assert "Did you mean 'digits'?" in text
    assert len(text) < 200


async def test_a_mistyped_model_in_a_header_or_body_is_told_with_the_nearest() -> None:
    app = create()
    for path, content, headers in (
        ("/invocations", b"a", {"x-amzn-sagemaker-custom-attributes": "tfs-model-name=digts"}),
        ("/endpoints/digits/invocations", b"a", {"x-amzn-sagemaker-target-model": "digts"}),
        ("/", json.dumps({"EndpointName": "digts"}).encode(), AWS),
        ("/", b'{"model_name": "digts", "data": {}}', {"content-type": "application/json"}),
    ):
        response = await call(app, "POST", path, content=content, headers=headers)
        assert 400 <= response.status_code < 500
        assert "Did you mean 'digits'?" in response.text.replace('\\"', "'"), path


async def test_what_is_near_nothing_is_told_without_a_guess() -> None:
    response = await call(create(), "GET", "/v2/models/resnet-50")
    assert response.json() == {
        "error": "Request for unknown model: 'resnet-50' is not found. Models: digits"
    }


@pytest.mark.parametrize(("method", "path", "nearest"), PATHS)
async def test_a_mistyped_path_is_told_with_the_nearest(
    method: str, path: str, nearest: str
) -> None:
    response = await call(create(), method, path, content=b"{}")
    assert response.status_code == 404
    text = response.json()["error"]
    assert f"No such path '{path}'. Did you mean '{nearest}'" in text
    assert len(text) < 200


async def test_another_path_is_told_in_one_sentence() -> None:
    response = await call(create(), "GET", "/" + "x" * 5000)
    assert response.status_code == 404
    assert len(response.text) < 400
    assert "openapi.json" in response.json()["error"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_of_many_models_the_nearest_come_first_and_not_all_are_listed(protocol: str) -> None:
    names = [f"model-{index}" for index in range(1000)] + ["digits"]
    kind = import_from_string(PROTOCOLS[protocol])
    text = str(kind.unknown_model("digts", names))
    assert "Did you mean 'digits'?" in text
    assert text.count("model-") <= LISTED_NAMES


BODIES = [
    ("image", "/v2/models/m/infer", b"", "The body is empty: expected a JSON object with `inputs`"),
    ("image", "/v2/models/m/infer", BLACK_PNG, "raw request, with Inference-Header-Content-Length"),
    ("image", "/invocations", b'{"instances": ["a"]}', "expected an image in base64"),
    ("floats", "/invocations", b'{"instances": [1]}', "got object with 'instances'"),
    ("floats", "/invocations", b'"a"', "Not an array of numbers: expected float32 (*), got str"),
]


@pytest.mark.parametrize(("kind", "path", "body", "sentence"), BODIES)
async def test_a_body_of_another_kind_is_told_in_plain_words(
    kind: str, path: str, body: bytes, sentence: str
) -> None:
    app = create_app(create_model(lambda items: items, input={"type": kind}))
    response = await call(app, "POST", path, content=body, headers={"content-type": JSON})
    assert response.status_code == 400
    assert sentence in response.json()["error"]
