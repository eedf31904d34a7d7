"""Requests that wait: for a replica, or for an answer, and within their model's deadline."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from rayserve_app.gateway import replicas, request_head
from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.request_head import LATE_S
from rayserve_app.gateway.settings import GatewaySettings
from tests.gateway.test_gateway import OK, answer, closed_port, replica
from tests.servers import raw_server, serving

BOUND = 20
"""How many times the stated time may pass on a busy machine."""

PATHS = {
    "/models/m/invoke": (503, "error"),
    "/endpoints/m/invocations": (429, "Message"),
    "/v1/models/m:predict": (503, "error"),
    "/v2/models/m/infer": (503, "error"),
    "/m/predict": (503, "cause"),
    "/predictions/m": (503, "message"),
}
"""By path, what its protocol says of a model that has no replica."""


class Models:
    """One model of one gateway, and where its replicas are."""

    def __init__(self, client: httpx.Client, directory: Directory) -> None:
        self.client = client
        self._directory = directory

    def serve(self, *ports: int, deadline_s: float = 20.0, patience_s: float | None = None) -> None:
        self._directory.update(
            [
                ServedModel(
                    "m",
                    "/m",
                    tuple(Address("127.0.0.1", port) for port in ports),
                    deadline_s=deadline_s,
                    patience_s=deadline_s if patience_s is None else patience_s,
                )
            ]
        )

    def ask(self, path: str = "/models/m/invoke", content: Any = b"abc") -> httpx.Response:
        return self.client.post(path, content=content)


@contextmanager
def gateway() -> Iterator[Models]:
    directory = Directory()
    with (
        serving(Gateway(GatewaySettings(default_model="m"), directory)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        yield Models(client, directory)


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with gateway() as made:
        yield made


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(replica) as port:
        yield port


@pytest.mark.parametrize("before", ["none", "refusing"])
def test_a_request_waits_for_a_replica(models: Models, port: int, before: str) -> None:
    models.serve(*([] if before == "none" else [closed_port()]))
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(models.ask, "/m/predict") for _ in range(4)]
        time.sleep(0.3)
        assert not any(each.done() for each in asked)
        models.serve(port)
        assert {each.result().status_code for each in asked} == {200}


def test_a_request_whose_only_replica_is_lost_waits_for_another(models: Models, port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as dying, ThreadPoolExecutor(1) as pool:
        models.serve(dying.getsockname()[1])
        asked = pool.submit(models.ask, "/m/predict")
        connection, _ = dying.accept()
        assert connection.recv(1 << 16)
        dying.close()
        connection.close()
        time.sleep(0.3)
        models.serve(port)
        assert asked.result().json()["size"] == 3


def test_a_request_that_kills_replicas_kills_no_third(models: Models) -> None:
    servers = [raw_server(each) for each in (b"", b"", OK)]
    with servers[0] as (first, one), servers[1] as (second, two), servers[2] as (third, three):
        models.serve(first, second, third)
        assert models.ask().status_code == 503
        assert len(one + two + three) == 2


@pytest.mark.parametrize("path", PATHS)
def test_who_waits_in_vain_is_told_at_the_deadline_in_the_protocols_words(
    models: Models, path: str
) -> None:
    models.serve(deadline_s=0.3)
    started_at = time.monotonic()
    refused = models.ask(path, b"{}")
    assert 0.3 <= time.monotonic() - started_at < 0.3 + BOUND * LATE_S
    status, key = PATHS[path]
    assert refused.status_code == status
    assert "has no replica" in refused.json()[key]
    assert int(refused.headers["retry-after"]) > 0


def test_nobody_waits_where_none_is_to_come(models: Models) -> None:
    models.serve(deadline_s=30.0, patience_s=0.0)
    started_at = time.monotonic()
    assert models.ask().status_code == 503
    assert time.monotonic() - started_at < 10


def test_a_replica_that_takes_no_connection_is_given_up_at_the_deadline(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose node is gone: what is sent there is lost without a word."""
    monkeypatch.setattr(request_head, "LATE_S", 0.1)
    monkeypatch.setattr(replicas, "CONNECT_TIMEOUT_S", 60.0)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as filling:
        filling.connect(full.getsockname())
        models.serve(full.getsockname()[1], deadline_s=0.3)
        started_at = time.monotonic()
        assert models.ask().status_code == 503
        assert time.monotonic() - started_at < 0.3 + BOUND * LATE_S


async def hanging(scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.parametrize("body", ["small", "streamed"])
@pytest.mark.parametrize(
    ("path", "status"), [("/models/m/invoke", 504), ("/v2/models/m/infer", 503)]
)
def test_a_replica_that_does_not_answer_is_given_up(
    models: Models, monkeypatch: pytest.MonkeyPatch, path: str, status: int, body: str
) -> None:
    monkeypatch.setattr(request_head, "LATE_S", 0.1)
    with serving(hanging) as port:
        models.serve(port, deadline_s=0.3)
        started_at = time.monotonic()
        late = models.ask(path, b"{}" if body == "small" else iter([b"a" * 300_000] * 4))
        assert 0.4 <= time.monotonic() - started_at < 0.3 + BOUND * LATE_S
        assert late.status_code == status
        assert "within its deadline" in late.json()["error"]


def test_an_answer_that_has_begun_may_last(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a large one does on a slow line."""
    monkeypatch.setattr(request_head, "LATE_S", 0.1)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        head = {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"2")],
        }
        await send(head)
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        await asyncio.sleep(0.6)
        await send({"type": "http.response.body", "body": b"k"})

    with serving(slow) as port:
        models.serve(port, deadline_s=0.1)
        assert models.ask().text == "ok"


def test_an_upload_takes_its_own_time(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is the model's, from when it has all of the request."""
    monkeypatch.setattr(request_head, "LATE_S", 0.1)

    def pieces() -> Iterator[bytes]:
        for _ in range(4):
            time.sleep(0.2)
            yield b"x" * 10

    async def prompt(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await answer(send, 200, b"ok")

    with serving(prompt) as port:
        models.serve(port, deadline_s=0.2)
        assert models.ask(content=pieces()).text == "ok"


def test_a_slow_upload_whose_replica_is_lost_has_all_of_the_deadline_left(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_head, "LATE_S", 0.1)

    def pieces() -> Iterator[bytes]:
        for _ in range(4):
            time.sleep(0.2)
            yield b"x" * 10

    def die(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            received = b""
            while not received.endswith(b"\r\n0\r\n\r\n"):
                received += connection.recv(1 << 16)
            models.serve(port, deadline_s=0.5)

    async def late(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await asyncio.sleep(0.2)
        await answer(send, 200, b"ok")

    with (
        serving(late) as port,
        socket.create_server(("127.0.0.1", 0)) as dying,
        ThreadPoolExecutor(1) as pool,
    ):
        models.serve(dying.getsockname()[1], deadline_s=0.5)
        died = pool.submit(die, dying)
        assert models.ask(content=pieces()).text == "ok"
        died.result()


def test_lists_wait_for_nobody(models: Models, port: int) -> None:
    models.serve(closed_port())
    started_at = time.monotonic()
    assert models.client.get("/v2/models/stats").status_code == 503
    assert time.monotonic() - started_at < 10
