"""Deadlines before Serve's own proxy, where requests wait for a replica."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from rayserve_app.gateway import deadlines
from rayserve_app.gateway.deadlines import Deadlines
from rayserve_app.gateway.replicas import ServedModel
from tests.gateway.test_gateway import answer
from tests.servers import serving

BOUND_S = 20 * deadlines.LATE_S

DEADLINE_S = 0.3

PATHS = {
    "/m/invocations": (503, "error"),
    "/m/endpoints/m/invocations": (429, "Message"),
    "/m/v1/models/m:predict": (503, "error"),
    "/m/v2/models/m/infer": (503, "error"),
    "/m/predict": (503, "cause"),
    "/m/predictions/m": (503, "message"),
    "/m": (503, "error"),
    "/m/no/such/path": (503, "error"),
}
"""By path, what its protocol says of a model that has no replica."""


async def find(path: str) -> ServedModel | None:
    return ServedModel("m", "/m", (), deadline_s=DEADLINE_S) if path.startswith("/m") else None


@contextmanager
def proxy(app: Any, find: Any = find) -> Iterator[httpx.Client]:
    with (
        serving(Deadlines(app, find)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        yield client


async def waiting(scope: Any, receive: Any, send: Any) -> None:
    """Wait for a replica that never comes, as Serve's proxy does, which takes a cancellation for a
    client that has left, and ends quietly."""
    try:
        while (await receive()).get("more_body"):
            pass
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        await answer(send, 499, b"never seen")


async def cancelled(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await asyncio.sleep(3600)


@pytest.mark.parametrize("path", PATHS)
def test_who_waits_in_vain_is_told_in_the_protocols_words(path: str) -> None:
    status, key = PATHS[path]
    with proxy(waiting) as client:
        started_at = time.monotonic()
        told = client.post(path, content=b"{}")
        assert DEADLINE_S <= time.monotonic() - started_at < DEADLINE_S + BOUND_S
        assert told.status_code == status
        assert "'m' has no replica" in told.json()[key]
        assert int(told.headers["retry-after"]) > 0


def test_a_model_that_is_not_known_at_first_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deadlines, "LOOK_AGAIN_S", 0.05)
    asked: list[str] = []

    async def find_late(path: str) -> ServedModel | None:
        asked.append(path)
        return await find(path) if len(asked) > 3 else None

    with proxy(cancelled, find_late) as client:
        assert client.get("/m/ping").status_code == 503
    assert asked == ["/m/ping"] * 4


async def test_the_deadline_counts_from_the_end_of_the_body_however_late_the_model_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, passed_s = asyncio.get_running_loop(), 0.0
    clock = loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + passed_s)

    async def find_late(path: str) -> ServedModel | None:
        nonlocal passed_s
        passed_s += 100
        return ServedModel("m", "/m", (), deadline_s=100)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/m/invocations", "headers": []}
    started_at = time.monotonic()
    await Deadlines(cancelled, find_late)(scope, receive, send)
    assert sent[0]["status"] == 503
    assert time.monotonic() - started_at < BOUND_S


def test_what_is_no_models_has_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "LATE_S", 0.0)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(2 * DEADLINE_S)
        await answer(send, 200, b"ok")

    with proxy(slow) as client:
        assert client.get("/other").text == "ok"
        assert client.get("/m/ping").status_code == 503


def test_an_answer_that_has_begun_may_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "LATE_S", 0.0)

    async def lasting(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await asyncio.sleep(2 * DEADLINE_S)
        await send({"type": "http.response.body", "body": b"ok"})

    with proxy(lasting) as client:
        assert client.post("/m/predict", content=b"{}").text == "ok"


def test_an_upload_takes_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "LATE_S", 0.0)

    async def reading(scope: Any, receive: Any, send: Any) -> None:
        size = 0
        while True:
            message = await receive()
            size += len(message["body"])
            if not message.get("more_body"):
                return await answer(send, 200, str(size).encode())

    def pieces() -> Iterator[bytes]:
        for _ in range(4):
            time.sleep(DEADLINE_S / 2)
            yield b"x" * 10

    with proxy(reading) as client:
        assert client.post("/m/predict", content=pieces()).text == "40"


def test_what_is_raised_is_raised_on() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise TimeoutError("its own")

    with proxy(failing) as client:
        assert client.post("/m/predict").status_code == 500
