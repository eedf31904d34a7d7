"""Multi Model Server's inputs as forms and queries, their limits, and whose requests are left."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rayserve_app.app import App, create_app
from rayserve_app.types import FailedInvocation, Metadata, Reply, TensorSpec
from tests.protocols import call, create_model

URLENCODED = "application/x-www-form-urlencoded"
PATHS = ["/predictions/m", "/models/m/invoke", "/invocations", "/predict"]


def create(function: Any, **options: Any) -> App:
    values: dict[str, Any] = {"protocols": ["multi_model_server"], "input": {"type": "string"}}
    return create_app(create_model(function, **(values | options)))


def create_lengths(**options: Any) -> App:
    return create(lambda items: [len(item) for item in items], **options)


def create_named() -> App:
    """Return the app of a model of two named inputs, which adds the elements of both."""

    def add(items: Sequence[Any]) -> list[float]:
        return [float(item["a"].sum() + item["b"].sum()) for item in items]

    specs = (TensorSpec("a", "float32", (-1, 2)), TensorSpec("b", "int64", (-1,)))
    return create(add, input={"type": "tensors"}, metadata=Metadata("test", inputs=specs))


@pytest.mark.parametrize("path", PATHS)
async def test_an_image_is_the_same_however_it_is_uploaded(path: str) -> None:
    app = create(lambda images: [int(each[0, 0, 0]) for each in images], input={"type": "image"})
    file = io.BytesIO()
    Image.new("L", (4, 4), 77).save(file, "PNG")
    image = file.getvalue()
    text = base64.b64encode(image).decode()
    for options in (
        {"files": {"data": ("a.png", image, "image/png")}},
        {"files": {"data": ("a.png", image, "application/octet-stream")}},
        {"files": {"data": (None, image)}},
        {"files": {"data": (None, text)}},
        {"data": {"data": text}},
        {"content": urlencode({"data": image}), "headers": {"content-type": URLENCODED}},
        {"content": image},
    ):
        response = await call(app, "POST", path, **options)
        assert (response.status_code, response.json()) == (200, 77)


async def test_a_part_is_read_by_its_own_content_type() -> None:
    app = create(lambda rows: [float(row.sum()) for row in rows], input={"type": "floats"})
    file = io.BytesIO()
    np.save(file, np.array([1, 2], np.float32))
    for part, answer in (
        ((None, file.getvalue(), "application/x-npy"), 3),
        ((None, b"[1, 2]", "application/json"), 3),
        ((None, b"1,2\n3,4", "text/csv"), [3, 7]),
        ((None, b"[[1], [2]]"), [1, 2]),
    ):
        response = await call(app, "POST", "/predict", files={"data": part})
        assert (response.status_code, response.json()) == (200, answer)


async def test_a_query_and_a_body_are_two_inputs() -> None:
    response = await call(create_lengths(), "POST", "/predict?data=a", content=b"abc")
    assert response.status_code == 400
    message = "Not one input: expected 'string', got 'data', 'body'"
    assert response.json()["message"] == message


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ([("a", "[1, 2]"), ("b", "3"), ("c", "4")], "Wrong input names"),
        ([("a", "[1, 2]"), ("b", "3"), ("b", "4")], "An input comes twice: got 'a', 'b', 'b'"),
        ([("a", "[1, 2, 3]"), ("b", "1")], "at `a`"),
        ([("a", "[1, 2]"), ("b", "1")] + [("c", "1")] * 1000, "Max number of fields exceeded"),
    ],
)
async def test_each_named_input_comes_once(fields: list[tuple[str, str]], sentence: str) -> None:
    response = await call(create_named(), "GET", "/predict", params=fields)
    assert (response.status_code, response.json()["type"]) == (400, "BadRequestException")
    assert sentence in response.json()["message"]


async def test_parts_together_hold_no_more_than_one_document_may() -> None:
    part = b"[" + b"[]," * 300_000 + b"[]]"
    files = [(name, (None, part)) for name in "abcd"]
    response = await call(create_named(), "POST", "/predict", files=files)
    assert response.status_code == 400
    message = "JSON has too many values: expected at most 1000000"
    assert response.json()["message"] == message


@pytest.mark.parametrize("path", ["/invocations", "/invocations?model_name="])
async def test_the_only_model_need_not_be_named(path: str) -> None:
    assert (await call(create_lengths(), "POST", path, content=b"abc")).json() == 3


async def test_a_body_beyond_the_limit_is_refused() -> None:
    app = create_lengths(limits={"max_body_mb": 0.002})
    response = await call(app, "POST", "/predictions/m", content=b"a" * 2001)
    assert (response.status_code, response.json()["code"]) == (413, 413)
    assert response.json()["type"] == "RequestEntityTooLargeException"


async def test_user_codes_own_error_is_sent_as_it_is() -> None:
    """A PredictionException's status is any, as the 599 of ModelServerTest."""
    failure = FailedInvocation("Failed", Reply("Some Prediction Error", "text/plain", 599))
    app = create(lambda items: [failure] * len(items), input={"type": "request"}, warm_up=False)
    response = await call(app, "POST", "/predictions/m", content=b"")
    assert (response.status_code, response.text) == (599, "Some Prediction Error")
    assert response.headers["x-request-id"]


PARTS = st.tuples(
    st.sampled_from(["a", "b", "data", "model_name", ""]) | st.text(max_size=6),
    st.binary(max_size=30) | st.sampled_from([b"[1, 2]", b"3", b"\xff\xd8\xff", b'{"b64": 1}']),
    st.none() | st.sampled_from(["application/json", "text/csv", "application/x-npy", "a/b", ""]),
)


def multipart(parts: Sequence[tuple[str, bytes, str | None]]) -> tuple[bytes, str]:
    body = b""
    for name, data, kind in parts:
        body += b'--x\r\nContent-Disposition: form-data; name="%s"\r\n' % name.encode()
        body += b"" if kind is None else b"Content-Type: %s\r\n" % kind.encode()
        body += b"\r\n" + data + b"\r\n"
    return body + b"--x--\r\n", "multipart/form-data; boundary=x"


def urlencoded(parts: Sequence[tuple[str, bytes, str | None]]) -> tuple[bytes, str]:
    return urlencode([part[:2] for part in parts]).encode(), URLENCODED


FORMS = st.builds(
    lambda write, parts: write(parts),
    st.sampled_from([multipart, urlencoded]),
    st.lists(PARTS, max_size=4),
)


@pytest.mark.parametrize("kind", ["string", "image", "bytes", "floats", "tensors", "request"])
def test_no_form_gets_an_unexpected_answer(kind: str) -> None:
    def predict(items: Sequence[Any]) -> list[Any]:
        return [Reply("1") if kind == "request" else 1] * len(items)

    app = create(predict, input={"type": kind}, warm_up=False)
    with asyncio.Runner() as runner:

        @settings(derandomize=True, deadline=None, max_examples=150, database=None)
        @given(FORMS, st.sampled_from(PATHS), st.text(max_size=20))
        def check(form: tuple[bytes, str], path: str, query: str) -> None:
            body, content_type = form
            headers = {"content-type": content_type}
            response = runner.run(
                call(app, "POST", path, content=body, headers=headers, params=query)
            )
            assert response.status_code in (200, 400, 404, 413, 415)
            if response.status_code != 200:
                assert set(response.json()) == {"code", "type", "message"}

        check()
