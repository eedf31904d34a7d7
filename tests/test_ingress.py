"""What stands before Serve in a replica: headers that Serve does not see, answers in one packet."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from asyncio.selector_events import _SelectorSocketTransport  # type: ignore[attr-defined]
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from rayserve_app.http import Request as OwnRequest
from rayserve_app.ingress import MAX_JOINED_BYTES, Ingress
from rayserve_app.settings import LimitSettings


def headers_seen(scope: Any) -> dict[bytes, bytes]:
    return dict(scope["headers"])


async def through(scope: dict[str, Any]) -> dict[str, Any]:
    """Return the scope that Serve gets to see."""
    seen: list[Any] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    async def nothing(*_: Any) -> None:
        return

    await Ingress(serve)(scope, nothing, nothing)  # type: ignore[arg-type]
    return dict(seen[0])


def http_scope(*headers: tuple[bytes, bytes], method: str = "POST") -> dict[str, Any]:
    return {"type": "http", "method": method, "headers": list(headers)}


@pytest.mark.parametrize("value", [b"?1", b"?0", b"x"])
async def test_clients_do_not_steer_serve(value: bytes) -> None:
    scope = await through(
        http_scope(
            (b"x-request-timeout-seconds", b"0"),
            (b"x-request-disconnect-disabled", value),
            (b"serve_multiplexed_model_id", b"m"),
        )
    )
    assert headers_seen(scope) == {b"x-request-disconnect-disabled": b"?1"}


async def test_serve_sees_what_names_and_traces_a_request() -> None:
    known = [(b"x-request-id", b"7"), (b"traceparent", b"00-1-2-01"), (b"tracestate", b"a=b")]
    scope = await through(http_scope(*known))
    assert headers_seen(scope).items() >= dict(known).items()


async def test_the_app_sees_all_headers() -> None:
    scope = await through(http_scope((b"accept", b"text/csv"), (b"x-request-id", b"7")))
    request = OwnRequest(scope, lambda: None, LimitSettings())  # type: ignore[arg-type]
    assert (request.header("accept"), request.header("x-request-id")) == ("text/csv", "7")
    assert request.header("x-request-disconnect-disabled") is None


async def test_what_is_not_http_passes_as_it_is() -> None:
    scope = {"type": "lifespan"}
    assert await through(scope) == {"type": "lifespan"}


async def echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


async def large(request: Request) -> Response:
    return Response(b"a" * (MAX_JOINED_BYTES + 1))


async def stream(request: Request) -> Response:
    async def pieces() -> Any:
        for number in range(3):
            yield f"{number}"

    return StreamingResponse(pieces())


async def empty(request: Request) -> Response:
    return Response(status_code=204)


async def head_only(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError("after the head")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a uvicorn on asyncio's own loop, whose writes can be counted."""
    routes = [
        Route("/echo", echo, methods=["POST", "GET"]),
        Route("/large", large),
        Route("/stream", stream),
        Route("/empty", empty),
    ]
    starlette = Starlette(routes=routes)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        chosen = head_only if scope.get("path") == "/head-only" else starlette
        await chosen(scope, receive, send)

    config = uvicorn.Config(
        Ingress(app), port=0, loop="asyncio", lifespan="off", log_config=None, log_level="critical"
    )
    running = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
        thread.start()
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        running.should_exit = True
        thread.join(10)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What transports have been told to write, call by call."""
    calls: list[bytes] = []
    write = _SelectorSocketTransport.write

    def count(transport: Any, data: Any) -> None:
        calls.append(bytes(data))
        write(transport, data)

    monkeypatch.setattr(_SelectorSocketTransport, "write", count)
    return calls


def test_an_answer_is_written_at_once(server: str, writes: list[bytes]) -> None:
    with httpx.Client() as client:
        for number in range(3):
            answer = client.post(f"{server}/echo", content=f"body {number}")
            assert answer.text == f"body {number}"
    answers = [data for data in writes if data.startswith(b"HTTP/1.1 200")]
    assert [data[-6:] for data in answers] == [b"body 0", b"body 1", b"body 2"]


def test_a_large_body_is_not_copied_to_its_head(server: str, writes: list[bytes]) -> None:
    assert len(httpx.get(f"{server}/large").content) == MAX_JOINED_BYTES + 1
    assert MAX_JOINED_BYTES + 1 in map(len, writes)


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/stream", 200, b"012"),
        ("GET", "/empty", 204, b""),
        ("HEAD", "/echo", 200, b""),
        ("HEAD", "/stream", 200, b""),
        ("POST", "/echo", 200, b""),
        ("GET", "/none", 404, b"Not Found"),
    ],
)
def test_all_answers_arrive_on_one_connection(
    server: str, method: str, path: str, status: int, body: bytes
) -> None:
    with httpx.Client(timeout=5) as client:
        for _ in range(2):
            answer = client.request(method, f"{server}{path}")
            assert (answer.status_code, answer.content) == (status, body)


def test_an_app_that_fails_after_the_head_closes_the_connection(server: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{server}/head-only", timeout=5)


async def test_another_server_is_left_alone() -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start"})

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await Ingress(app)(http_scope(), asyncio.Event().wait, send)  # type: ignore[arg-type]
    assert sent == ["http.response.start"]
