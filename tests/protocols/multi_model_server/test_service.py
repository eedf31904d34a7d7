"""Multi Model Server's inference API."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate
from PIL import Image

from rayserve_app.app import App, create_app
from rayserve_app.types import Invocation, Metadata, Reply, TensorSpec
from tests.protocols import call, create_model

PREDICTIONS = "/predictions/m"
URLENCODED = {"content-type": "application/x-www-form-urlencoded"}


def add(rows: Sequence[Any]) -> list[float]:
    return [float(row.sum()) for row in rows]


def create_sums(**options: Any) -> App:
    values: dict[str, Any] = {"input": {"type": "doubles"}, "protocols": ["multi_model_server"]}
    return create_app(create_model(add, **(values | options)))


def create_images() -> App:
    model = create_model(
        lambda images: [int(np.asarray(image).max()) for image in images],
        input={"type": "image"},
        protocols=["multi_model_server"],
    )
    return create_app(model)


def png(shade: int = 200) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", path) for path in (PREDICTIONS, "/predict", "/invocations", "/models/m/invoke")),
        ("PUT", PREDICTIONS),  # as `curl -T` sends it
        *(("GET", path) for path in (PREDICTIONS, "/predict")),
    ],
)
async def test_a_body_is_predicted_whatever_the_route(method: str, path: str) -> None:
    response = await call(create_sums(), method, path, content=b"[[1, 2], [3, 4]]")
    assert (response.status_code, response.json()) == (200, [3, 7])


async def test_every_answer_has_an_id_and_is_not_kept() -> None:
    app = create_sums()
    answers = [
        await call(app, "POST", PREDICTIONS, content=b"[1]"),
        await call(app, "POST", PREDICTIONS, content=b"["),
        await call(app, "GET", "/ping"),
        await call(app, "OPTIONS", PREDICTIONS),
    ]
    for response in answers:
        assert response.headers["pragma"] == "no-cache"
        assert response.headers["cache-control"] == ("no-cache; no-store, must-revalidate, private")
        assert response.headers["expires"] == "Thu, 01 Jan 1970 00:00:00 UTC"
    assert len({response.headers["x-request-id"] for response in answers}) == len(answers)


@pytest.mark.parametrize("is_warm", [True, False])
async def test_ping_is_an_object_with_status_200(is_warm: bool) -> None:
    response = await call(create_sums(is_warm=is_warm), "GET", "/ping")
    assert response.status_code == 200
    assert response.content == b'{"status":"%s"}\n' % (b"Healthy" if is_warm else b"Unhealthy")


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "kind", "message"),
    [
        ("POST", PREDICTIONS, {}, b"{", 400, "BadRequestException", "not JSON"),
        ("POST", "/predictions/n", {}, b"[1]", 404, "ModelNotFoundException", "Model not found: n"),
        (
            "POST",
            "/invocations?model_name=n",
            {},
            b"[1]",
            404,
            "ModelNotFoundException",
            "Model not found: n",
        ),
        (
            "POST",
            PREDICTIONS,
            {"content-type": "image/jpeg"},
            b"1",
            415,
            "UnsupportedMediaTypeException",
            "Unsupported Content-Type",
        ),
        ("POST", PREDICTIONS, {"accept": "a/b"}, b"[1]", 406, "BadRequestException", "represent"),
        (
            "POST",
            PREDICTIONS,
            {},
            b"[" + b"[1]," * 5 + b"[1]]",
            413,
            "RequestEntityTooLargeException",
            "at most 5",
        ),
    ],
)
async def test_an_error_is_an_object_of_code_type_and_message(
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    status: int,
    kind: str,
    message: str,
) -> None:
    app = create_sums(limits={"max_items": 5})
    response = await call(app, method, path, content=body, headers=headers)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.content.endswith(b"}\n")
    fields = response.json()
    assert list(fields) == ["code", "type", "message"]
    assert (fields["code"], fields["type"]) == (status, kind)
    assert message in fields["message"]


async def test_a_model_that_fails_or_is_cold_is_unavailable() -> None:
    app = create_app(
        create_model(
            lambda items: [1 / 0],
            input={"type": "string"},
            protocols=["multi_model_server"],
            warm_up=False,
        )
    )
    response = await call(app, "POST", PREDICTIONS, content=b"x")
    assert response.json() == {
        "code": 503,
        "type": "InternalServerException",
        "message": "The model failed: ZeroDivisionError: division by zero",
    }
    response = await call(create_sums(is_warm=False), "POST", PREDICTIONS, content=b"[1]")
    assert response.json()["type"] == "ServiceUnavailableException"
    assert int(response.headers["retry-after"]) > 0


# Forms and parameters


async def test_the_field_of_a_form_is_the_input_whatever_its_name() -> None:
    app = create_images()
    for name in ("data", "img", "body"):
        files = {name: ("kitten.png", png(), "image/png")}
        response = await call(app, "POST", PREDICTIONS, files=files)
        assert (response.status_code, response.json()) == (200, 200)


async def test_a_text_field_of_an_image_is_base64() -> None:
    text = base64.b64encode(png()).decode()
    response = await call(create_images(), "POST", PREDICTIONS, data={"data": text})
    assert (response.status_code, response.json()) == (200, 200)


async def test_a_field_of_numbers_is_json() -> None:
    app = create_sums()
    response = await call(app, "POST", PREDICTIONS, data={"x": "[[1, 2], [3, 4]]"})
    assert response.json() == [3, 7]
    files = {"x": ("a.csv", b"1,2\n3,4", "text/csv")}
    assert (await call(app, "POST", PREDICTIONS, files=files)).json() == [3, 7]


async def test_a_parameter_of_the_query_is_an_input_of_the_older_routes() -> None:
    app = create_sums()
    for method, path in (("GET", "/predict"), ("POST", "/predict"), ("POST", "/invocations")):
        response = await call(app, method, f"{path}?x=[1,2]")
        assert (response.status_code, response.json()) == (200, 3)
    response = await call(app, "POST", "/invocations?model_name=m", content=b"[1, 2]")
    assert response.json() == 3
    # Not of this one, which upstream gives no query.
    assert (await call(app, "POST", f"{PREDICTIONS}?x=[5]", content=b"[1, 2]")).json() == 3


async def test_named_inputs_are_fields() -> None:
    specs = (TensorSpec("a", "float64", (-1, 2)), TensorSpec("b", "float64", (-1,)))
    model = create_model(
        lambda items: [float(item["a"].sum() * item["b"]) for item in items],
        metadata=Metadata("test", inputs=specs),
        input={"type": "tensors"},
        protocols=["multi_model_server"],
    )
    app = create_app(model)
    response = await call(app, "POST", PREDICTIONS, data={"a": "[1, 2]", "b": "3"})
    assert (response.status_code, response.json()) == (200, 9)
    response = await call(app, "POST", "/predict?b=3", data={"a": "[1, 2]"})
    assert response.json() == 9
    response = await call(app, "POST", PREDICTIONS, data={"a": "[1, 2]", "b": "{"})
    assert response.json()["message"].endswith("- at `b`")
    response = await call(app, "POST", PREDICTIONS, data={"a": "[1, 2]"})
    assert "Wrong input names" in response.json()["message"]


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        (b"", URLENCODED, "Not one input: expected 'doubles', got none"),
        (b"a=1&b=2", URLENCODED, "Not one input: expected 'doubles', got 'a', 'b'"),
        (b"a=[", URLENCODED, "- at `a`"),
        (b"x", {"content-type": "multipart/form-data"}, "The Content-Type has no boundary"),
    ],
)
async def test_a_form_that_does_not_fit_is_told_why(
    body: bytes, headers: dict[str, str], message: str
) -> None:
    response = await call(create_sums(), "POST", PREDICTIONS, content=body, headers=headers)
    assert response.status_code == 400
    assert message in response.json()["message"]


async def test_user_code_gets_the_field_body_and_other_forms_as_they_came() -> None:
    seen: list[Invocation] = []

    def answer(items: Sequence[Any]) -> list[Reply]:
        seen.extend(items)
        return [Reply("ok", "text/plain")] * len(items)

    model = create_model(answer, input={"type": "request"}, protocols=["multi_model_server"])
    app = create_app(model)
    response = await call(app, "POST", PREDICTIONS, content=b"a=1", headers=URLENCODED)
    assert (response.text, response.headers["content-type"]) == ("ok", "text/plain")
    assert "x-request-id" in response.headers
    assert (bytes(seen[0].body), seen[0].content_type) == (b"a=1", URLENCODED["content-type"])
    files = [("other", b"x"), ("body", b"first"), ("body", ("a.jpg", b"\xff\0", "image/jpeg"))]
    await call(app, "POST", PREDICTIONS, files=files)
    assert (bytes(seen[1].body), seen[1].is_field) == (b"\xff\0", True)
    assert seen[1].content_type.startswith("multipart/form-data")
    cut = {"content-type": "multipart/form-data; boundary=x"}
    response = await call(app, "POST", PREDICTIONS, content=b"--x\r\n", headers=cut)
    assert (response.status_code, len(seen)) == (400, 2)


# Descriptions, and other protocols at the same paths


@pytest.mark.parametrize(
    ("method", "path"), [("OPTIONS", "/"), ("GET", "/api-description"), ("OPTIONS", PREDICTIONS)]
)
async def test_the_api_is_described(method: str, path: str) -> None:
    response = await call(create_sums(), method, path)
    assert (response.status_code, response.json()["openapi"]) == (200, "3.0.1")
    validate(response.json())


async def test_sagemakers_paths_are_sagemakers_where_it_stands_first() -> None:
    app = create_sums(protocols=["sagemaker", "multi_model_server"])
    assert (await call(app, "GET", "/ping")).content == b""
    assert list((await call(app, "POST", "/invocations", content=b"[")).json()) == ["error"]
    assert "x-request-id" in (await call(app, "POST", PREDICTIONS, content=b"[1]")).headers


def test_no_body_or_query_gets_an_unexpected_answer() -> None:
    app = create_sums()
    boundary = b"--b\r\ncontent-disposition: form-data; name=x\r\n\r\n"
    bodies = (
        st.binary(max_size=40)
        | st.binary(max_size=20).map(lambda data: boundary + data + b"\r\n--b--")
        | st.text(max_size=20).map(lambda text: json.dumps(text).encode())
        | st.sampled_from([b"[1]", b"x=[1]", b"a&b&a=", b"%zz=%", b"model_name=m&x=[1]"])
    )
    types = [
        *("application/json", "text/csv", "multipart/form-data; boundary=b", "multipart/form-data"),
        *("application/x-www-form-urlencoded", "application/jsonlines", "image/png", "", ";"),
    ]
    queries = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=12)
    with asyncio.Runner() as runner:

        @settings(derandomize=True, deadline=None, max_examples=300, database=None)
        @given(bodies, st.sampled_from(types), queries, st.sampled_from(["/predict", PREDICTIONS]))
        def check(body: bytes, content_type: str, query: str, path: str) -> None:
            url = f"{path}?{query.replace('#', '')}"
            headers = {"content-type": content_type}
            response = runner.run(call(app, "POST", url, content=body, headers=headers))
            assert response.status_code in (200, 400, 413, 415)
            if response.status_code != 200:
                assert list(response.json()) == ["code", "type", "message"]

        check()
