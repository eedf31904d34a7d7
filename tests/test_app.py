"""The ASGI app of one model: routes, errors in the protocols' bodies, timing, disconnects."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest

from rayserve_app.app import App, create_app
from rayserve_app.inference.model import Model
from rayserve_app.web.messages import CHUNK_BYTES
from tests.protocols import call, create_model

STRING = {"type": "string"}


def echo(items: Sequence[Any]) -> list[Any]:
    return list(items)


def create_echo(**settings: Any) -> Model:
    return create_model(echo, **({"input": STRING} | settings))


class Connection:
    """One HTTP request, driven message by message."""

    def __init__(self, path: str, *headers: tuple[str, str], method: str = "POST") -> None:
        self.scope = {
            "type": "http",
            "method": method,
            "path": f"/m{path}",
            "root_path": "/m",
            "headers": [(name.encode(), value.encode()) for name, value in headers],
        }
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []

    def bring(self, body: bytes, *, more_body: bool = False) -> None:
        self.messages.put_nowait({"type": "http.request", "body": body, "more_body": more_body})

    def leave(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})

    async def run(self, app: App) -> None:
        async def send(message: Any) -> None:
            self.sent.append(message)

        await app(self.scope, self.messages.get, send)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    def json(self) -> Any:
        return json.loads(b"".join(message["body"] for message in self.sent[1:]))


@pytest.mark.parametrize("path", ["", "/"])
async def test_the_prefix_itself_describes_the_model_with_and_without_a_slash(path: str) -> None:
    model = create_echo(version="7")
    response = await call(create_app(model), "GET", path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == json.loads(json.dumps(model.describe()))
    assert (response.json()["name"], response.json()["version"]) == ("m", "7")


async def test_head_is_get_without_a_body() -> None:
    app = create_app(create_echo())
    got, head = await call(app, "GET", ""), await call(app, "HEAD", "")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(got.content))
    assert (await call(app, "HEAD", "/ping")).status_code == 200


async def test_routes_without_a_prefix() -> None:
    connection = Connection("", method="GET")
    for path in ("/", "/ping"):
        connection.scope |= {"path": path, "root_path": ""}
        await connection.run(create_app(create_echo()))
        assert connection.status == 200


async def test_an_unknown_path_is_answered_with_the_nearest() -> None:
    response = await call(create_app(create_echo()), "GET", "/predit")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/json"
    sentence = "No such path '/predit'. Did you mean '/predict'?"
    assert response.json() == {"error": sentence}


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("PUT", "/predict", "POST"), ("POST", "/ping", "GET"), ("DELETE", "/invocations", "POST")],
)
async def test_a_wrong_verb_is_answered_with_the_right_one(
    method: str, path: str, allow: str
) -> None:
    response = await call(create_app(create_echo()), method, path)
    assert response.status_code == 405
    assert allow in response.headers["allow"].split(", ")
    assert method in response.json()["error"]


async def test_a_model_speaks_the_protocols_of_its_settings() -> None:
    app = create_app(create_echo(protocols=["sagemaker"]))
    assert (await call(app, "GET", "/ping")).status_code == 200
    assert (await call(app, "POST", "/predict", json={"input": "a"})).status_code == 404


PREDICTIONS = {
    "clipper": ("/predict", b'{"input": "a"}', {"error", "cause"}),
    "sagemaker": ("/invocations", b"a", {"error"}),
}
each_protocol = pytest.mark.parametrize(
    ("path", "body", "keys"), PREDICTIONS.values(), ids=PREDICTIONS
)


def check_error(response: Any, status: int, keys: set[str]) -> None:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == keys


@each_protocol
async def test_a_handler_that_crashes_tells_nothing_of_its_insides(
    path: str,
    body: bytes,
    keys: set[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def crash(*_: Any, **__: Any) -> None:
        raise ValueError("the secret of /etc/model")

    model = create_echo()
    monkeypatch.setattr(model, "predict", crash)
    with caplog.at_level(logging.ERROR):
        response = await call(create_app(model), "POST", path, content=body)
    check_error(response, 500, keys)
    assert "secret" not in response.text
    assert "ValueError" not in response.text
    assert "the replica's log has the details" in response.text
    assert "the secret of /etc/model" in caplog.text


@each_protocol
async def test_a_cold_model_says_when_to_come_again(path: str, body: bytes, keys: set[str]) -> None:
    model = create_model(echo, input=STRING, is_warm=False)
    response = await call(create_app(model), "POST", path, content=body)
    if path == "/predict":
        # Clipper's clients always get an answer.
        assert response.json()["default_explanation"] == "No connected models found for query"
        return
    check_error(response, 503, keys)
    assert response.headers["retry-after"] == "5"
    assert "Model 'm' is warming up" in response.text


@each_protocol
async def test_a_body_too_large_is_refused(path: str, body: bytes, keys: set[str]) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"a" * 600

    app = create_app(create_echo(limits={"max_body_mb": 0.001}))
    check_error(await call(app, "POST", path, content=b"a" * 1001), 413, keys)
    check_error(await call(app, "POST", path, content=pieces()), 413, keys)


@each_protocol
async def test_a_body_is_held_only_as_long_as_its_request(
    path: str, body: bytes, keys: set[str]
) -> None:
    app = create_app(create_echo(limits={"max_buffered_mb": 0.00002}))
    for _ in range(3):
        assert (await call(app, "POST", path, content=body)).status_code == 200
        response = await call(app, "POST", path, content=b"a" * 21)
        check_error(response, 503, keys)
        assert int(response.headers["retry-after"]) > 0


@each_protocol
async def test_a_body_that_is_announced_too_large_is_never_received(
    path: str, body: bytes, keys: set[str]
) -> None:
    connection = Connection(path, ("content-length", "64000001"))
    async with asyncio.timeout(5):
        await connection.run(create_app(create_echo()))
    assert connection.status == 413
    assert set(connection.json()) == keys


@each_protocol
async def test_a_body_that_stalls_is_given_up(path: str, body: bytes, keys: set[str]) -> None:
    connection = Connection(path)
    connection.bring(body, more_body=True)
    async with asyncio.timeout(5):
        await connection.run(create_app(create_echo(limits={"body_timeout_s": 0.05})))
    assert connection.status == 408
    assert set(connection.json()) == keys


@each_protocol
async def test_a_coded_body_is_refused(path: str, body: bytes, keys: set[str]) -> None:
    headers = {"content-encoding": "gzip"}
    response = await call(create_app(create_echo()), "POST", path, content=body, headers=headers)
    check_error(response, 415, keys)


@each_protocol
async def test_stages_are_told_in_server_timing(path: str, body: bytes, keys: set[str]) -> None:
    model = create_echo()
    response = await call(create_app(model), "POST", path, content=body)
    # W3C Server Timing: metric;dur=milliseconds;desc="text", separated by commas.
    metrics = [
        re.fullmatch(r"([a-z_]+);dur=(\d+\.\d+)(;desc=\"1 item\")?", part)
        for part in response.headers["server-timing"].split(", ")
    ]
    assert all(metrics), response.headers["server-timing"]
    assert [metric[1] for metric in metrics if metric] == [
        "queue",
        "decode",
        "batch_wait",
        "predict",
        "encode",
    ]
    assert [metric[1] for metric in metrics if metric and metric[3]] == ["predict"]
    assert model.recorder.stage_seconds["predict"].count == 1


async def test_what_never_reached_the_model_has_no_stages() -> None:
    model = create_echo()
    for method, path in (("GET", ""), ("POST", "/predict"), ("GET", "/nowhere")):
        assert "server-timing" not in (await call(create_app(model), method, path)).headers
    assert model.recorder.stage_seconds["predict"].count == 0


async def test_answers_are_counted_by_protocol_and_status() -> None:
    model = create_echo()
    app = create_app(model)
    for method, path, body in (
        ("POST", "/predict", b'{"input": "a"}'),
        ("POST", "/predict", b'{"input": "a"}'),
        ("POST", "/predict", b"{"),
        ("GET", "/ping", b""),
        ("GET", "", b""),
        ("GET", "/nowhere", b""),
    ):
        await call(app, method, path, content=body)
    assert model.recorder.responses == {
        ("clipper", 200): 2,
        ("clipper", 400): 1,
        ("sagemaker", 200): 1,
        ("", 200): 1,
        ("", 404): 1,
    }


@pytest.mark.parametrize("takes_views", [True, False])
async def test_a_large_array_is_a_view_only_where_the_server_takes_it(takes_views: bool) -> None:
    array = np.zeros((1, CHUNK_BYTES // 4 + 1), np.float32)
    model = create_model(lambda items: {"a": array}, input=STRING, output={"codec": "npy"})
    connection = Connection("/invocations")
    connection.bring(b"a")
    seen: list[Any] = []
    app = create_app(model, takes_views=lambda scope: seen.append(scope) or takes_views)
    await connection.run(app)
    assert seen == [connection.scope]
    kinds = {type(message["body"]) for message in connection.sent[1:-1]}
    assert kinds == ({memoryview} if takes_views else {bytes})
    if takes_views:
        views = [message["body"] for message in connection.sent[2:-1]]
        assert all(np.shares_memory(np.frombuffer(view, np.uint8), array) for view in views)


async def test_bytes_unless_it_is_known_that_the_server_takes_views() -> None:
    model = create_model(lambda items: {"a": np.ones((1, 2))}, input=STRING)
    connection = Connection("/invocations", ("accept", "application/x-npy"))
    connection.bring(b"a")
    await connection.run(create_app(model))
    assert {type(message["body"]) for message in connection.sent[1:]} == {bytes}


class Waiting:
    """A model that waits until its gate opens."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.batches: list[list[Any]] = []
        self.model = create_model(self.predict, input=STRING, batching={"max_batch_size": 1})
        self.app = create_app(self.model)

    def predict(self, items: Sequence[Any]) -> list[Any]:
        self.batches.append(list(items))
        self.gate.wait(20)
        return list(items)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def test_no_client_can_keep_work_alive_after_it_left() -> None:
    waiting = Waiting()
    first, second = (
        Connection("/invocations", ("x-request-disconnect-disabled", "1")) for _ in range(2)
    )
    first.bring(b"first")
    second.bring(b"second")
    running = asyncio.ensure_future(first.run(waiting.app))
    await until(lambda: waiting.batches)
    queued = asyncio.ensure_future(second.run(waiting.app))
    await until(lambda: waiting.model.batcher.queued_items == 1)
    second.leave()
    await queued
    assert waiting.model.batcher.queued_items == 0
    assert second.sent == []
    waiting.gate.set()
    await running
    assert (first.status, waiting.batches) == (200, [["first"]])


each_way = pytest.mark.parametrize("headers", [[], [("x-request-disconnect-disabled", "1")]])


@each_way
async def test_work_that_serve_cancels_leaves_nothing_behind(headers: Any) -> None:
    waiting = Waiting()
    before = asyncio.all_tasks()
    connection = Connection("/invocations", *headers)
    connection.bring(b"a")
    running = asyncio.ensure_future(connection.run(waiting.app))
    await until(lambda: waiting.batches)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    waiting.gate.set()


@each_way
async def test_a_client_that_leaves_within_its_body_gets_no_answer(headers: Any) -> None:
    connection = Connection("/predict", *headers)
    connection.bring(b"{", more_body=True)
    connection.leave()
    async with asyncio.timeout(5):
        await connection.run(create_app(create_echo()))
    assert connection.sent == []


async def test_the_lifespan_is_answered() -> None:
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await create_app(create_echo())({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await create_app(create_echo())({"type": "websocket"}, asyncio.Event().wait, send)
    assert sent == ["websocket.close"]
