"""What is wrong with a request is told, and never the server's fault."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.app import create_app
from tests.protocols import call, create_model
from tests.protocols.simple_tensorflow_serving.template_model import (
    ALONE,
    create_echo,
    create_template_model,
    post,
)

fast = settings(derandomize=True, deadline=None, max_examples=150)
# Errors


EMPTY = "not JSON: Input is a zero-length, empty document: line 1 column 1 (char 0)"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"[1, 2]", "Invalid json data: [1, 2]"),
        (b"{bad", "Invalid json data: {bad"),
        (b"", f"Invalid json data: {EMPTY}"),
        (b"\xff", "Invalid json data: \ufffd"),
        (b"[" * 1000, "Invalid json data: JSON is nested too deeply: expected at most 64 levels"),
        (b'{"data": {}}', "Inference with empty data, please check the request JSON"),
        (b"{}", "Inference with empty data, please check the request JSON"),
        (b'{"data": 1}', "Wrong kind of data: expected an object of inputs, got int - at `data`"),
        (b'{"data": {"string": []}}', "No items: expected at least one - at `data`"),
        (
            b'{"model_name": "nope", "data": {}}',
            "Invalid model name: nope, available models: ['m']",
        ),
        (b'{"model_name": ["m"]}', "Invalid model name: ['m'], available models: ['m']"),
        (
            b'{"data": {"string": [1]}}',
            "Not a string: expected a string, got int - at `data.string[0]`",
        ),
    ],
)
async def test_errors_are_the_intended_ones(body: bytes, error: str) -> None:
    response = await call(
        create_echo("string"),
        "POST",
        "/",
        content=body,
        headers={"content-type": "application/json; charset=utf-8"},
    )
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"error": error}
    assert response.content.endswith(b"\n")


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_other_content_types_are_refused(content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = await call(create_echo("string"), "POST", "/", content=b"{}", headers=headers)
    assert response.status_code == 400
    sentence = "Error, unsupported content type: expected application/json or multipart/form-data"
    assert response.json()["error"].startswith(sentence)


async def test_a_missing_input_is_named() -> None:
    response = await post(create_app(create_template_model()), {"data": {"keys": [[1]]}})
    assert response.status_code == 400
    assert response.json() == {
        "error": "Input op name 'features' does not exist in input data: ['keys'], "
        "please check the request JSON"
    }


async def test_a_failing_model_is_no_fault_of_the_server() -> None:
    def fail(_: Any) -> Any:
        raise ValueError("shape is off")

    app = create_app(create_model(fail, input={"type": "string"}, protocols=ALONE))
    response = await post(app, {"data": {"string": ["a"]}})
    assert response.status_code == 400
    assert "shape is off" in response.json()["error"]


async def test_what_http_has_a_status_for_keeps_it() -> None:
    app = create_echo("string", limits={"max_items": 1})
    assert (await post(app, {"data": {"string": ["a", "b"]}})).status_code == 413
    cold = create_app(
        create_model(lambda items: items, input={"type": "string"}, protocols=ALONE, is_warm=False)
    )
    for response in (
        await post(cold, {"data": {"string": ["a"]}}),
        await call(cold, "GET", "/health"),
    ):
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert response.json() == {"error": "Model 'm' is warming up"}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@fast
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "model_name": JSON_VALUES,
            "model_version": JSON_VALUES | st.just("1"),
            "signature_name": JSON_VALUES,
            "base64_decode": st.just(True) | JSON_VALUES,
            "data": st.fixed_dictionaries({}, optional={"string": JSON_VALUES, "keys": JSON_VALUES})
            | JSON_VALUES,
        },
    )
    | JSON_VALUES,
    st.sampled_from(["string", "tensors", "image", "bytes", "floats", "tensor", "request"]),
)
def test_no_json_is_the_servers_fault(fields: Any, kind: str) -> None:
    convert = {"simple_tensorflow_serving": {"autoconvert_base64": True}}
    app = create_echo(kind, protocol_settings=convert)
    # Infinities too, which httpx would not write.
    body = json.dumps(fields).encode()
    headers = {"content-type": "application/json"}
    response = asyncio.run(call(app, "POST", "/", content=body, headers=headers))
    assert response.status_code in (200, 400, 413), response.text
    assert isinstance(response.json(), dict)


@fast
@given(
    st.binary(),
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0")),
    st.sampled_from(["/", "/run_image_inference", "/run_json_inference", "/run_generate_clients"]),
)
def test_no_body_and_no_header_is_the_servers_fault(body: bytes, text: str, path: str) -> None:
    async def send() -> None:
        app = create_echo("image")
        for kind in (
            text,
            f"multipart/form-data; boundary={text}",
            "multipart/form-data;boundary=b",
        ):
            response = await call(
                app,
                "POST",
                path,
                content=b"--b\r\n" + body,
                headers=[
                    (b"content-type", kind.encode("latin-1")),
                    (b"authorization", text.encode("latin-1")),
                    (b"x-forwarded-host", text.encode("latin-1")),
                ],
            )
            assert response.status_code == 400, response.text

    asyncio.run(send())
