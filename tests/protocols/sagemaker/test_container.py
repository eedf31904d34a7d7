"""The SageMaker container contract: `/ping` and `/invocations`."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import pickle
import struct
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rayserve_app.app import App, create_app
from rayserve_app.inference import batcher
from rayserve_app.types import FailedInvocation, Invocation, Metadata, Reply, TensorSpec
from tests.protocols import call, create_model


def create_sums(**options: Any) -> App:
    """Return the app of a model that adds the elements of each vector."""

    def add(rows: Sequence[Any]) -> list[float]:
        return [float(row.sum()) for row in rows]

    return create_app(create_model(add, **({"input": {"type": "doubles"}} | options)))


async def invoke(
    app: App, body: bytes, content_type: str | None = None, accept: str | None = None
) -> Any:
    headers = {"content-type": content_type, "accept": accept}
    given = {name: value for name, value in headers.items() if value is not None}
    return await call(app, "POST", "/invocations", content=body, headers=given)


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


async def test_ping_is_empty_when_the_model_is_ready() -> None:
    response = await call(create_sums(), "GET", "/ping")
    assert (response.status_code, response.content) == (200, b"")


async def test_ping_says_unavailable_while_the_model_is_cold() -> None:
    response = await call(create_sums(is_warm=False), "GET", "/ping")
    assert response.status_code == 503
    assert response.json() == {"error": "Model 'm' is warming up"}
    assert int(response.headers["retry-after"]) > 0


async def test_ping_says_unavailable_when_the_model_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batcher, "HANG_FLOOR_S", 1.0)
    gate = threading.Event()
    model = create_model(
        lambda items: gate.wait(20),
        input={"type": "string"},
        batching={"max_batch_size": 1},
        deadline={"latency_ms": 20},
    )
    app = create_app(model)
    for _ in range(3):
        response = await invoke(app, b"a")
        assert response.status_code == 504
        assert response.json() == {"error": "The model gave no result within its deadline"}
    async with asyncio.timeout(10):
        while (await call(app, "GET", "/ping")).status_code != 503:
            await asyncio.sleep(0.01)
    gate.set()


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("application/json", b"[[1, 2], [3.5, 4]]", [3, 7.5]),
        ("application/json; charset=utf-8", b"[1, 2]", 3),
        (None, b"[[1, 2]]", [3]),
        ("text/csv", b"1,2\n3.5,4", [3, 7.5]),
        ("text/csv", b"1,2", [3]),
        ("application/x-npy", npy(np.array([[1, 2], [3.5, 4]])), [3, 7.5]),
        ("application/x-npy", npy(np.array([1, 2])), 3),
    ],
)
async def test_a_body_is_read_by_its_content_type(
    content_type: str | None, body: bytes, expected: Any
) -> None:
    response = await invoke(create_sums(), body, content_type)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == expected


@pytest.mark.parametrize(
    ("accept", "media_type", "body"),
    [
        (None, "application/json", b"[3.0,7.0]"),
        ("*/*", "application/json", b"[3.0,7.0]"),
        ("text/csv", "text/csv", b"3.0\n7.0\n"),
        ("text/csv, application/json", "text/csv", b"3.0\n7.0\n"),
        ("application/x-npy", "application/x-npy", npy(np.array([3.0, 7.0]))),
        ("application/octet-stream", "application/octet-stream", struct.pack("<2d", 3, 7)),
    ],
)
async def test_the_answer_is_in_the_form_that_accept_asks_for(
    accept: str | None, media_type: str, body: bytes
) -> None:
    response = await invoke(create_sums(), b"[[1, 2], [3, 4]]", "application/json", accept)
    assert response.headers["content-type"] == media_type
    assert response.content == body
    assert response.headers["content-length"] == str(len(body))


async def test_the_models_own_form_is_the_default() -> None:
    response = await invoke(create_sums(output={"codec": "csv"}), b"[1, 2]")
    assert (response.headers["content-type"], response.content) == ("text/csv", b"3.0\n")


async def test_the_yolo_of_the_guide() -> None:
    """A packed stream in; one flat float32 array out, output by output (guide 4)."""

    def yolo(images: Sequence[Any]) -> dict[str, Any]:
        means = np.stack(images).mean(axis=(1, 2, 3), dtype=np.float32)
        return {
            f"conv2d_{number}": means[:, None] * np.ones(size, np.float32)
            for number, size in ((58, 2), (66, 3), (74, 4))
        }

    model = create_model(
        yolo,
        input={"type": "image", "codec": "packed_jpeg", "size": [8, 8]},
        output={"codec": "npy"},
    )
    stream = b""
    for shade in (10, 200, 90):
        file = io.BytesIO()
        Image.new("RGB", (16, 16), (shade, shade, shade)).save(file, "JPEG")
        stream += struct.pack(">I", len(file.getvalue())) + file.getvalue()
    response = await invoke(create_app(model), stream, "application/x-packed-jpeg", "*/*")
    assert response.headers["content-type"] == "application/x-npy"
    answer = np.load(io.BytesIO(response.content))
    assert (answer.dtype, answer.shape) == (np.float32, (3 * (2 + 3 + 4),))
    expected = np.concatenate([np.repeat([10, 200, 90], size) for size in (2, 3, 4)])
    np.testing.assert_allclose(answer, expected, atol=1)


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "status", "sentence"),
    [
        (b"{", "application/json", None, 400, "not JSON"),
        (b"[]", "text/csv", None, 400, "Not an array of numbers"),
        (b"", "text/csv", None, 400, "The body is empty: expected application/json or"),
        (b'[[1], ["a"]]', "application/json", None, 400, "at `[1].input`"),
        (b"1,2\n3,a", "text/csv", None, 400, "at `rows[1].input`"),
        (b"1", "image/jpeg", None, 415, "application/json or application/x-npy or text/csv"),
        (b"[1]", "application/json", "image/png", 406, "or text/csv or application/x-npy or"),
        (b"[" + b"[1]," * 6 + b"[1]]", "application/json", None, 413, "at most 5, got 7"),
    ],
)
async def test_an_error_is_an_object_with_a_sentence(
    body: bytes, content_type: str, accept: str | None, status: int, sentence: str
) -> None:
    response = await invoke(create_sums(limits={"max_items": 5}), body, content_type, accept)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    assert sentence in response.json()["error"]


async def test_a_bad_image_is_told_by_its_place() -> None:
    model = create_model(lambda images: [0] * len(images), input={"type": "image"})
    body = json.dumps([base64.b64encode(b"no image").decode()])
    for images, place in ((f"{body}", ""), (body[:-1] + "," + body[1:], " - at `[0]`")):
        response = await invoke(create_app(model), images.encode(), "application/json")
        assert response.status_code == 400
        assert response.json()["error"].endswith(place)
        assert "not an image" in response.json()["error"]


def divide(rows: Sequence[Any]) -> list[float]:
    return [1 / int(row[0]) for row in rows]


async def test_a_model_that_fails_on_an_item_says_on_which() -> None:
    app = create_app(create_model(divide, input={"type": "integers"}))
    response = await invoke(app, b"[[1], [0], [2]]")
    assert response.status_code == 500
    sentence = "The model failed: ZeroDivisionError: division by zero"
    assert response.json() == {"error": f"{sentence} - at `[1]`"}
    assert (await invoke(app, b"[0]")).json() == {"error": sentence}
    assert (await invoke(app, b"[[1], [2]]")).json() == [1, 0.5]


async def test_a_result_that_json_cannot_hold_is_the_models_fault() -> None:
    model = create_model(lambda items: [{1}], input={"type": "string"})
    response = await invoke(create_app(model), b"a", accept="application/json")
    assert response.status_code == 500
    assert "type set" in response.json()["error"]


async def test_the_order_of_a_request_outlives_its_batches() -> None:
    app = create_sums(batching={"max_batch_size": 3, "max_concurrent_batches": 2})
    rows = [[float(number)] for number in range(20)]
    for accept in ("application/json", "application/x-npy"):
        response = await invoke(app, json.dumps(rows).encode(), "application/json", accept)
        answer = (
            response.json()
            if accept == "application/json"
            else np.load(io.BytesIO(response.content)).tolist()
        )
        assert answer == list(range(20))


def create_whole(answer: Any, seen: list[Any] | None = None) -> App:
    """Return the app of a model that takes whole requests and gives this answer."""

    def invoke_all(items: Sequence[Any]) -> list[Any]:
        if seen is not None:
            seen.extend(items)
        return [answer] * len(items)

    return create_app(create_model(invoke_all, input={"type": "request"}))


async def test_user_code_gets_body_and_headers_as_they_came() -> None:
    seen: list[Any] = []
    headers = {
        "content-type": "application/JSON; charset=utf-8",
        "accept": "a/b, c/d;q=0.5",
        "x-amzn-sagemaker-custom-attributes": "tfs-model-name=a",
    }
    app = create_whole(Reply("ok"), seen)
    await call(app, "POST", "/invocations", content=b"{\xff", headers=headers)
    await invoke(app, b"")
    assert [bytes(item.body) for item in seen] == [b"{\xff", b""]
    assert [item[1:4] for item in seen] == [tuple(headers.values()), (None, None, None)]


@pytest.mark.parametrize(
    ("reply", "status", "content_type", "body"),
    [
        (Reply("größe", "text/x"), 200, "text/x", "größe".encode()),
        (Reply(b"\0\xff", "a/b, c/d"), 200, "a/b, c/d", b"\0\xff"),
        (Reply(b"", None), 200, None, b""),
        (Reply("no", "text/x", 418), 418, "text/x", b"no"),
        (
            FailedInvocation("Failed", Reply("why\nTraceback", None, 500)),
            500,
            None,
            b"why\nTraceback",
        ),
    ],
)
async def test_its_reply_is_sent_as_it_is(
    reply: Any, status: int, content_type: str | None, body: bytes
) -> None:
    response = await invoke(create_whole(reply), b"x", accept="image/png")
    assert (response.status_code, response.content) == (status, body)
    assert response.headers.get("content-type") == content_type
    assert response.headers["content-length"] == str(len(body))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("text", "Not a reply: expected Reply, got str"),
        (Reply("", "a\r\nset-cookie: b"), "Not a Content-Type"),
        (Reply("", "a\u2014b"), "Not a Content-Type"),
    ],
)
async def test_an_answer_that_is_no_reply_is_the_models_fault(answer: Any, sentence: str) -> None:
    response = await invoke(create_whole(answer), b"")
    assert response.status_code == 500
    assert sentence in response.json()["error"]


def test_a_failed_invocation_crosses_processes() -> None:
    error = FailedInvocation("Failed", Reply(b"why", "text/x", 500))
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.reply) == (str(error), error.reply)
    assert copy.at("[1]").path == "[1]"


@pytest.mark.parametrize(
    ("value", "invocation"),
    [
        (b"\xff", Invocation(b"\xff", "application/octet-stream")),
        ("/w==", Invocation(b"\xff", "application/octet-stream")),
        ({"b64": "/w=="}, Invocation(b"\xff", "application/octet-stream")),
        ([1, {"a": None}], Invocation(b'[1,{"a":null}]', "application/json")),
        (np.ones((1, 2)), Invocation(b"[[1.0,1.0]]", "application/json")),
        (Invocation(b"a", "b", "c", "d"), Invocation(b"a", "b", "c", "d")),
    ],
)
def test_a_value_without_headers_is_a_request_too(value: Any, invocation: Invocation) -> None:
    model = create_model(len, input={"type": "request"})
    assert model.inputs.from_object(value, path="[0]") == invocation


CONTENT_TYPES = [
    None,
    "application/json",
    "text/csv",
    "application/x-npy",
    "application/octet-stream",
    "application/x-packed-jpeg",
    "image/png",
    "text/plain",
    "multipart/form-data",
]
HEADERS = [
    b"\x93NUMPY\x01\0",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"\0\0\0\1",
    b"[[",
    b'{"b64":',
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data", "b64", "x", "n"]), inner, max_size=2)
    ),
    max_leaves=8,
)
BODIES = (
    st.binary(max_size=40)
    | st.builds(lambda start, rest: start + rest, st.sampled_from(HEADERS), st.binary(max_size=40))
    | VALUES.map(lambda value: json.dumps(value).encode())
)
NAMED = (TensorSpec("x", "float32", (-1, 2)), TensorSpec("n", "uint8", (-1,)))


@pytest.mark.parametrize(
    ("kind", "codec", "specs"),
    [
        ("string", "raw", ()),
        ("string", "base64_urlsafe", ()),
        ("bytes", "json_metadata", ()),
        ("image", "packed_jpeg", ()),
        ("integers", "raw", ()),
        ("floats", "raw", ()),
        ("tensor", "raw", NAMED[:1]),
        ("tensor", "raw", ()),
        ("tensors", "raw", NAMED),
    ],
)
def test_no_body_gets_an_unexpected_answer(
    kind: str, codec: str, specs: tuple[TensorSpec, ...]
) -> None:
    model = create_model(
        lambda items: [1] * len(items),
        metadata=Metadata("test", inputs=specs),
        input={"type": kind, "codec": codec},
    )
    app = create_app(model)
    with asyncio.Runner() as runner:

        @settings(derandomize=True, deadline=None, max_examples=80, database=None)
        @given(BODIES, st.sampled_from(CONTENT_TYPES))
        def check(body: bytes, content_type: str | None) -> None:
            response = runner.run(invoke(app, body, content_type))
            assert response.status_code in (200, 400, 413, 415)
            if response.status_code == 200:
                assert np.all(np.equal(response.json(), 1))
            else:
                assert set(response.json()) == {"error"}

        check()


@pytest.mark.parametrize(
    ("result", "accept", "kind"),
    [
        ({"a": 1}, "application/x-npy, application/json", "application/json"),
        ({"a": 1}, "application/x-npy, */*;q=0.1", "application/json"),
        ({"a": 1}, "application/x-npy;q=0.5, application/jsonlines;q=0.2", "application/jsonlines"),
        (np.ones(3), "application/json;q=0, application/x-npy;q=0.1", "application/x-npy"),
        (np.array([1j]), "application/json, application/x-npy", "application/x-npy"),
        (np.array([1j]), "application/json, */*;q=0.5", "application/x-npy"),
        (np.array([np.nan]), "application/json, application/x-npy", "application/json"),
        (np.zeros(3_000_000), "text/csv, application/x-npy", "application/x-npy"),
        ({"a": [1]}, "application/x-npy, text/csv;q=0.9, application/json", "application/json"),
    ],
)
async def test_the_first_form_that_can_carry_the_result_is_sent(
    result: Any, accept: str, kind: str
) -> None:
    def answer(items: Sequence[Any]) -> list[Any]:
        return [result] * len(items)

    app = create_app(create_model(answer, input={"type": "string"}))
    for path in ("/invocations", "/models/m/invoke", "/predictions/m", "/endpoints/m/invocations"):
        headers = {"accept": accept, "content-type": "text/plain"}
        response = await call(app, "POST", path, content=b"a", headers=headers)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == kind


async def test_where_no_form_can_carry_the_result_the_first_is_told_of() -> None:
    app = create_app(create_model(lambda items: [{"a": 1}], input={"type": "string"}))
    response = await invoke(app, b"a", "text/plain", "application/x-npy, application/json;q=0")
    assert response.status_code == 406
    assert "`.npy` cannot hold them" in response.json()["error"]


async def test_lines_of_a_repeated_header_count() -> None:
    app = create_app(create_model(lambda items: [{"a": 1}], input={"type": "string"}))
    for lines in (
        ["application/x-npy", "application/json"],
        ["image/png", "*/*"],
        ["a/b", "", "application/json"],
    ):
        headers = [("accept", line) for line in lines]
        response = await call(app, "POST", "/invocations", content=b"a", headers=headers)
        assert (response.status_code, response.json()) == (200, {"a": 1})
