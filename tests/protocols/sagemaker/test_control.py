"""The calls of SageMaker's control plane that SDKs make around predictions."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.app import App, create_app
from rayserve_app.inference import batcher
from tests.protocols import call, create_model

MEDIA_TYPE = "application/x-amz-json-1.1"
OPERATIONS = [
    "DescribeEndpoint",
    "DescribeEndpointConfig",
    "DeleteEndpoint",
    "DeleteEndpointConfig",
]


def create(**options: Any) -> App:
    return create_app(create_model(len, input={"type": "string"}, **options))


async def ask(app: App, operation: str, **fields: Any) -> Any:
    headers = {"x-amz-target": f"SageMaker.{operation}", "content-type": MEDIA_TYPE}
    return await call(app, "POST", "/", content=json.dumps(fields), headers=headers)


async def test_an_endpoint_is_described() -> None:
    before = time.time()
    response = await ask(app := create(), "DescribeEndpoint", EndpointName="m")
    assert (response.status_code, response.headers["content-type"]) == (200, MEDIA_TYPE)
    assert response.headers["x-amzn-requestid"]
    fields = response.json()
    created_at = fields.pop("CreationTime")
    assert before - 10 < created_at <= time.time()
    assert fields == {
        "EndpointName": "m",
        "EndpointArn": "arn:aws:sagemaker:local:000000000000:endpoint/m",
        "EndpointConfigName": "m",
        "ProductionVariants": [
            {"VariantName": "AllTraffic", "CurrentWeight": 1.0, "DesiredWeight": 1.0}
        ],
        "EndpointStatus": "InService",
        "LastModifiedTime": created_at,
    }
    again = await ask(app, "DescribeEndpoint", EndpointName="m")
    assert again.json()["CreationTime"] == created_at


async def test_its_configuration_is_described() -> None:
    """SDK 1.72 asks for the configuration that the endpoint names, and for its first model."""
    app = create()
    endpoint = (await ask(app, "DescribeEndpoint", EndpointName="m")).json()
    name = endpoint["EndpointConfigName"]
    fields = (await ask(app, "DescribeEndpointConfig", EndpointConfigName=name)).json()
    assert fields.pop("CreationTime") == endpoint["CreationTime"]
    assert fields == {
        "EndpointConfigName": "m",
        "EndpointConfigArn": "arn:aws:sagemaker:local:000000000000:endpoint-config/m",
        "ProductionVariants": [
            {"VariantName": "AllTraffic", "ModelName": "m", "InitialVariantWeight": 1.0}
        ],
    }


async def test_an_endpoint_that_warms_up_is_being_created() -> None:
    response = await ask(create(is_warm=False), "DescribeEndpoint", EndpointName="m")
    assert (response.status_code, response.json()["EndpointStatus"]) == (200, "Creating")


async def test_an_endpoint_that_hangs_is_out_of_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "HANG_FLOOR_S", 0.1)
    gate = threading.Event()
    model = create_model(
        lambda items: gate.wait(20),
        input={"type": "string"},
        batching={"max_batch_size": 1},
        deadline={"latency_ms": 20},
    )
    app = create_app(model)
    for _ in range(3):
        await call(app, "POST", "/invocations", content=b"a")
    while not model.is_stalled:
        await asyncio.sleep(0.005)
    response = await ask(app, "DescribeEndpoint", EndpointName="m")
    assert response.json()["EndpointStatus"] == "OutOfService"
    gate.set()


async def test_what_is_deleted_stays() -> None:
    app = create()
    for _ in range(2):
        for response in (
            await ask(app, "DeleteEndpointConfig", EndpointConfigName="m"),
            await ask(app, "DeleteEndpoint", EndpointName="m"),
        ):
            assert (response.status_code, response.json()) == (200, {})
    response = await ask(app, "DescribeEndpoint", EndpointName="m")
    assert response.json()["EndpointStatus"] == "InService"


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_another_endpoint_is_not_found(operation: str) -> None:
    fields = {"EndpointName": "n", "EndpointConfigName": "n"}
    response = await ask(create(), operation, **fields)
    kind = "endpoint configuration" if operation.endswith("Config") else "endpoint"
    assert response.status_code == 400
    assert response.headers["x-amzn-errortype"] == "ValidationException"
    assert response.json() == {
        "__type": "ValidationException",
        "message": f'Could not find {kind} "n"',
    }


@pytest.mark.parametrize("target", ["SageMaker.CreateModel", "DescribeEndpoint", "S3.x", ""])
async def test_another_operation_is_refused(target: str) -> None:
    response = await call(create(), "POST", "/", content=b"{}", headers={"x-amz-target": target})
    assert response.status_code == 400
    assert response.json()["__type"] == "UnknownOperationException"
    assert "SageMaker.DescribeEndpoint, SageMaker.Des" in response.json()["message"]
    assert repr(target) in response.json()["message"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "not JSON"),
        (b"[]", "expected an object"),
        (b"{}", "expected a string, got NoneType - at `EndpointName`"),
        (b'{"EndpointName": 1}', "expected a string, got int - at `EndpointName`"),
        (b'{"EndpointConfigName": "m"}', "at `EndpointName`"),
    ],
)
async def test_a_call_without_a_name_is_told_why(body: bytes, sentence: str) -> None:
    headers = {"x-amz-target": "SageMaker.DescribeEndpoint"}
    response = await call(create(), "POST", "/", content=body, headers=headers)
    assert (response.status_code, response.json()["__type"]) == (400, "ValidationException")
    assert sentence in response.json()["message"]


async def test_a_request_without_a_target_is_another_protocols() -> None:
    app = create(protocols=["sagemaker_runtime", "simple_tensorflow_serving"])
    response = await call(app, "POST", "/", json={"data": "abc"})
    assert "x-amzn-errortype" not in response.headers
    response = await call(create(protocols=["sagemaker_runtime"]), "POST", "/", json={})
    assert response.status_code == 400
    assert response.headers["x-amzn-errortype"] == "ValidationError"
    assert response.json() == {"Message": "No X-Amz-Target says which operation is asked for"}


def test_no_call_gets_an_unexpected_answer() -> None:
    app = create()
    values = st.none() | st.integers() | st.text(max_size=20) | st.just("m")
    bodies = st.binary(max_size=30) | st.dictionaries(
        st.sampled_from(["EndpointName", "EndpointConfigName", "x"]), values
    ).map(lambda fields: json.dumps(fields).encode())
    targets = st.sampled_from(OPERATIONS).map("SageMaker.{}".format) | st.text(
        st.characters(min_codepoint=32, max_codepoint=255), max_size=40
    )
    with asyncio.Runner() as runner:

        @settings(derandomize=True, deadline=None, max_examples=150, database=None)
        @given(bodies, targets)
        def check(body: bytes, target: str) -> None:
            headers = {"x-amz-target": target.encode("latin-1")}
            response = runner.run(call(app, "POST", "/", content=body, headers=headers))
            assert response.status_code in (200, 400)
            assert response.headers["content-type"] == MEDIA_TYPE
            assert ("__type" in response.json()) == (response.status_code == 400)

        check()
