"""SageMaker's runtime API and control plane, on the wire."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.app import App, create_app
from rayserve_app.errors import DeadlineExceeded
from rayserve_app.protocols.sagemaker.runtime import SageMakerRuntime
from rayserve_app.types import FailedInvocation, Reply
from tests.protocols import call, create_model

INVOKE = "/endpoints/m/invocations"
STREAM = "/endpoints/m/invocations-response-stream"
PREFIX = "X-Amzn-SageMaker-"


def add(rows: Sequence[Any]) -> list[float]:
    return [float(row.sum()) for row in rows]


def create_sums(**options: Any) -> App:
    return create_app(create_model(add, **({"input": {"type": "doubles"}} | options)))


def create_whole(answer: Any) -> App:
    return create_app(create_model(lambda items: [answer] * len(items), input={"type": "request"}))


async def test_the_answer_is_the_containers_with_the_platforms_headers() -> None:
    response = await call(create_sums(), "POST", INVOKE, content=b"[[1, 2], [3, 4]]")
    assert (response.status_code, response.content) == (200, b"[3.0,7.0]")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-amzn-invoked-production-variant"] == "AllTraffic"
    assert "x-amzn-requestid" in response.headers
    assert "x-amzn-sagemaker-custom-attributes" not in response.headers


async def test_custom_attributes_come_back() -> None:
    headers = {PREFIX + "Custom-Attributes": "trace=1, tfs-model-version=1"}
    response = await call(create_sums(), "POST", INVOKE, content=b"[1]", headers=headers)
    assert response.headers["x-amzn-sagemaker-custom-attributes"] == "trace=1, tfs-model-version=1"


async def test_user_code_answers_for_itself() -> None:
    headers = {PREFIX + "Custom-Attributes": "trace=1"}
    app = create_whole(Reply("größe", "text/x", 201))
    response = await call(app, "POST", INVOKE, content=b"x", headers=headers)
    assert (response.status_code, response.text) == (201, "größe")
    assert "x-amzn-sagemaker-custom-attributes" not in response.headers


@pytest.mark.parametrize(
    ("header", "value", "said"),
    [
        ("Custom-Attributes", "a" * 1025, "X-Amzn-SageMaker-custom-attributes"),
        ("Custom-Attributes", b"\xe9", "X-Amzn-SageMaker-custom-attributes"),
        ("Target-Variant", "-a", "X-Amzn-SageMaker-target-variant"),
        ("Target-Variant", "a" * 64, "X-Amzn-SageMaker-target-variant"),
        ("Target-Model", "n.tar.gz", "No such TargetModel here: expected 'm' or 'm.tar.gz'"),
        ("Inference-Component", "n", "No such TargetModel here: expected 'm' or 'm.tar.gz'"),
    ],
)
async def test_a_header_that_does_not_fit_is_a_validation_error(
    header: str, value: Any, said: str
) -> None:
    for path in (INVOKE, STREAM):
        headers = {PREFIX + header: value}
        response = await call(create_sums(), "POST", path, content=b"[1]", headers=headers)
        assert response.status_code == 400
        assert response.headers["x-amzn-errortype"] == "ValidationError"
        assert list(response.json()) == ["Message"]
        assert said in response.json()["Message"]


@pytest.mark.parametrize("target", ["m", "m.tar.gz", "/m.tar.gz"])
async def test_a_target_model_is_this_one(target: str) -> None:
    headers = {PREFIX + "Target-Model": target}
    response = await call(create_sums(), "POST", INVOKE, content=b"[1]", headers=headers)
    assert response.status_code == 200


async def test_another_endpoint_is_a_validation_error() -> None:
    response = await call(create_sums(), "POST", "/endpoints/n/invocations", content=b"[1]")
    assert response.status_code == 400
    assert response.headers["x-amzn-errortype"] == "ValidationError"
    assert response.json() == {"Message": "Endpoint n not found. Models: m"}


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "status", "message"),
    [
        (b"{", "application/json", None, 400, "not JSON"),
        (b"[1]", "image/jpeg", None, 415, "Unsupported Content-Type"),
        (b"[1]", "application/json", "image/png", 406, "No such representation"),
        (b"[" + b"[1]," * 5 + b"[1]]", "application/json", None, 413, "at most 5"),
    ],
)
async def test_what_the_container_refuses_is_a_model_error(
    body: bytes, content_type: str, accept: str | None, status: int, message: str
) -> None:
    app = create_sums(limits={"max_items": 5})
    headers = {"content-type": content_type} | ({"accept": accept} if accept else {})
    container = await call(app, "POST", "/invocations", content=body, headers=headers)
    assert (container.status_code, message in container.text) == (status, True)
    response = await call(app, "POST", INVOKE, content=body, headers=headers)
    assert response.status_code == 424
    assert response.headers["x-amzn-errortype"] == "ModelError"
    assert response.json() == {
        "Message": f'Received client error ({status}) from model with message "{container.text}".',
        "OriginalStatusCode": status,
        "OriginalMessage": container.text,
        "LogStreamArn": "",
    }


async def test_a_model_that_fails_is_a_model_error() -> None:
    app = create_app(create_model(lambda items: [1 / 0], input={"type": "string"}, warm_up=False))
    response = await call(app, "POST", INVOKE, content=b"x")
    assert (response.status_code, response.json()["OriginalStatusCode"]) == (424, 500)
    assert response.json()["Message"].startswith("Received server error (500) from model with mess")


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (Reply("no such format", "text/plain", 415), 415, "no such format"),
        (Reply(b"\xff\0", None, 500), 500, "\ufffd\0"),
        (Reply("moved", None, 302), 302, "moved"),
        (FailedInvocation("Failed", Reply("why", None, 500)), 500, "why"),
        (Reply("a" * 5000, None, 500), 500, "a" * 2048),
        ("no reply", 500, '{"error":"Not a reply: expected Reply, got str"}'),
        (
            FailedInvocation("Failed", Reply("", "a\r\nb: c", 500)),
            500,
            '{"error":"Not a Content-Type: got \'a\\\\r\\\\nb: c\'"}',
        ),
    ],
)
async def test_whatever_user_code_says_but_success_is_a_model_error(
    answer: Any, status: int, text: str
) -> None:
    for path in (INVOKE, STREAM):
        response = await call(create_whole(answer), "POST", path, content=b"x")
        assert response.status_code == 424
        assert response.json()["OriginalStatusCode"] == status
        assert response.json()["OriginalMessage"] == text
        assert len(response.json()["Message"]) <= 2048


async def test_a_model_that_is_cold_or_full_may_be_asked_again() -> None:
    response = await call(create_sums(is_warm=False), "POST", INVOKE, content=b"[1]")
    assert response.status_code == 429
    assert response.headers["x-amzn-errortype"] == "ModelNotReadyException"
    assert int(response.headers["retry-after"]) > 0
    gate = threading.Event()
    model = create_model(
        lambda items: [gate.wait(20)] * len(items),
        input={"type": "string"},
        batching={"max_batch_size": 1},
        limits={"max_items": 1, "max_queued_items": 1},
        warm_up=False,
    )
    app = create_app(model)
    first = asyncio.create_task(call(app, "POST", INVOKE, content=b"a"))
    await asyncio.sleep(0.05)
    response = await call(app, "POST", INVOKE, content=b"b")
    gate.set()
    assert response.status_code == 503
    assert response.headers["x-amzn-errortype"] == "ServiceUnavailable"
    assert (await first).status_code == 200


async def test_a_body_that_is_too_large_never_reaches_the_model() -> None:
    app = create_sums(limits={"max_body_mb": 0.001})
    response = await call(app, "POST", INVOKE, content=b"[1]" + b" " * 1000)
    assert response.status_code == 400
    assert response.headers["x-amzn-errortype"] == "ValidationError"
    assert "at most 1000 bytes" in response.json()["Message"]


async def test_a_late_answer_is_a_model_error() -> None:
    gate = threading.Event()
    model = create_model(
        lambda items: [gate.wait(20)],
        input={"type": "string"},
        deadline={"latency_ms": 20},
        warm_up=False,
    )
    response = await call(create_app(model), "POST", INVOKE, content=b"a")
    gate.set()
    assert (response.status_code, response.json()["OriginalStatusCode"]) == (424, 504)


async def test_a_stream_reads_accept_from_a_header_of_its_own() -> None:
    headers = {PREFIX + "Accept": "text/csv", "Accept": "application/json"}
    response = await call(create_sums(), "POST", STREAM, content=b"[1]", headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/vnd.amazon.eventstream"
    assert response.headers["x-amzn-sagemaker-content-type"] == "text/csv"
    assert b"1.0\n" in response.content


# Control plane


async def ask(app: App, operation: str, body: bytes) -> Any:
    headers = {"x-amz-target": operation, "content-type": "application/x-amz-json-1.1"}
    return await call(app, "POST", "/", content=body, headers=headers)


async def test_an_endpoint_is_described_by_its_models_state() -> None:
    body = b'{"EndpointName": "m"}'
    warm, cold = create_sums(), create_sums(is_warm=False)
    response = await ask(warm, "SageMaker.DescribeEndpoint", body)
    assert response.headers["content-type"] == "application/x-amz-json-1.1"
    assert response.json()["EndpointStatus"] == "InService"
    assert (await ask(cold, "SageMaker.DescribeEndpoint", body)).json()["EndpointStatus"] == (
        "Creating"
    )


@pytest.mark.parametrize("operation", ["DeleteEndpoint", "DeleteEndpointConfig"])
async def test_deleting_succeeds_and_deletes_nothing(operation: str) -> None:
    app = create_sums()
    response = await ask(
        app, f"SageMaker.{operation}", b'{"EndpointName": "m", "EndpointConfigName": "m"}'
    )
    assert (response.status_code, response.content) == (200, b"{}")
    assert (await call(app, "POST", INVOKE, content=b"[1]")).json() == 1


@pytest.mark.parametrize(
    ("operation", "body", "kind", "message"),
    [
        ("SageMaker.ListEndpoints", b"{}", "UnknownOperationException", "SageMaker.DeleteEndpoint"),
        ("DescribeEndpoint", b"{}", "UnknownOperationException", "No such operation"),
        ("DynamoDB_20120810.GetItem", b"{}", "UnknownOperationException", "No such operation"),
        (
            "SageMaker.DescribeEndpoint",
            b'{"EndpointName": "n"}',
            "ValidationException",
            'Could not find endpoint "n"',
        ),
        (
            "SageMaker.DescribeEndpointConfig",
            b'{"EndpointConfigName": "n"}',
            "ValidationException",
            'Could not find endpoint configuration "n"',
        ),
        ("SageMaker.DeleteEndpoint", b"{}", "ValidationException", "at `EndpointName`"),
        ("SageMaker.DeleteEndpoint", b"[", "ValidationException", "not JSON"),
    ],
)
async def test_a_call_that_is_none_is_refused_as_aws_does(
    operation: str, body: bytes, kind: str, message: str
) -> None:
    response = await ask(create_sums(), operation, body)
    assert response.status_code == 400
    assert response.json()["__type"] == response.headers["x-amzn-errortype"] == kind
    assert message in response.json()["message"]


async def test_without_a_target_the_path_is_another_protocols() -> None:
    app = create_sums(protocols=["sagemaker_runtime"])
    response = await call(app, "POST", "/", json={"EndpointName": "m"})
    assert response.status_code == 400
    assert response.json() == {"Message": "No X-Amz-Target says which operation is asked for"}


HEADER_NAMES = (
    *("Content-Type", "Accept", "Custom-Attributes", "Target-Model", "Target-Variant"),
    *("Inference-Id", "InputLocation", "S3OutputPathExtension", "Filename", "RequestTTLSeconds"),
    *("InvocationTimeoutSeconds", "Session-Id"),
)
VALUES = (
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=30)
    | st.sampled_from(["m", "1", "60", "application/json", "text/csv", "tfs-model-version=1"])
    | st.sampled_from(["..", "/etc/passwd", "s3://a/b", "file:///etc/passwd", "\u00b2", "6_0"])
)


def test_no_header_or_body_gets_an_unexpected_answer(tmp_path: Any) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    places = {"async_input": [f"{tmp_path}/in"], "async_output": f"{tmp_path}/out"}
    app = create_sums(protocol_settings={"sagemaker": places})
    paths = [INVOKE, STREAM, "/endpoints/m/async-invocations", "/endpoints/n/invocations"]
    headers = st.dictionaries(
        st.sampled_from([PREFIX + name for name in HEADER_NAMES] + ["Content-Type", "Accept"]),
        VALUES.map(lambda text: text.encode("latin-1")),
        max_size=5,
    )
    with asyncio.Runner() as runner:

        @settings(derandomize=True, deadline=None, max_examples=400, database=None)
        @given(st.sampled_from(paths), headers, st.binary(max_size=12) | st.just(b"[1,2]"))
        def check(path: str, given_headers: dict[str, bytes], body: bytes) -> None:
            response = runner.run(call(app, "POST", path, content=body, headers=given_headers))
            assert response.status_code in (200, 202, 400, 424)
            if response.status_code == 424:
                assert 400 <= response.json()["OriginalStatusCode"] < 500
            if response.status_code == 400:
                assert response.headers["x-amzn-errortype"] == "ValidationError"

        check()
    assert {each.name for each in tmp_path.iterdir()} == {"in", "out"}


def test_no_call_of_the_control_plane_gets_an_unexpected_answer() -> None:
    app = create_sums()
    targets = st.sampled_from(["SageMaker.DescribeEndpoint", "SageMaker.", "", "x"]) | st.text(
        st.characters(codec="ascii", exclude_characters="\r\n\0"), max_size=20
    )
    bodies = st.binary(max_size=20) | st.sampled_from(
        [b'{"EndpointName": "m"}', b'{"EndpointName": 1}', b"null", b'"m"']
    )
    with asyncio.Runner() as runner:

        @settings(derandomize=True, deadline=None, max_examples=150, database=None)
        @given(targets, bodies)
        def check(target: str, body: bytes) -> None:
            response = runner.run(ask(app, target, body))
            assert response.status_code in (200, 400)
            assert isinstance(response.json(), dict)

        check()


def test_a_deadline_that_passes_before_the_model_is_told_as_the_models_own() -> None:
    """As a gateway does: AWS tells the container's time-out as a ModelError, which botocore does
    not repeat."""
    response = SageMakerRuntime.render_error(DeadlineExceeded("Too late"))
    assert response.status == 424
    assert response.headers["x-amzn-errortype"] == "ModelError"
    fields = json.loads(b"".join(map(bytes, response.buffers)))
    assert fields["OriginalStatusCode"] == 504
