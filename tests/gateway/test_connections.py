"""The gateway's connections to replicas: kept between requests, and never out of step."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from rayserve_app.gateway import replicas
from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from tests.servers import serving

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

CLOSING = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"


@contextmanager
def gateway_of(port: int) -> Iterator[httpx.Client]:
    """Run a gateway to the one model that listens on a port; yield a client."""
    directory = Directory()
    directory.update([ServedModel("m", "/m", (Address("127.0.0.1", port),))])
    gateway = Gateway(GatewaySettings(protocols=("sagemaker",)), directory)
    with (
        serving(gateway) as own_port,
        httpx.Client(base_url=f"http://127.0.0.1:{own_port}", timeout=20) as client,
    ):
        yield client


@contextmanager
def keeping_server(answer: bytes) -> Iterator[tuple[int, list[Any]]]:
    """Answer each packet that comes with these bytes and keep the connections, whatever the answer
    says; yield the port and the peers, one per connection."""
    peers: list[Any] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            peers.append(self.client_address)
            while self.request.recv(1 << 16):
                self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], peers
        server.shutdown()


async def tell_peer(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the port of the connection's other end."""
    while (await receive()).get("more_body"):
        pass
    body = str(scope["client"][1]).encode()
    headers = [(b"x-peer", body), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def test_requests_one_after_the_other_share_a_connection() -> None:
    with serving(tell_peer) as port, gateway_of(port) as client:
        answers = [
            client.post("/invocations", content=b"abc"),
            client.get("/ping"),
            client.head("/ping"),
            client.post("/invocations", content=iter([b"no", b"length"])),
            client.post("/invocations", content=b"x" * 2_000_000),
        ]
    assert [each.status_code for each in answers] == [200] * 5
    assert len({each.headers["x-peer"] for each in answers}) == 1


def test_a_connection_that_was_idle_for_long_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "MAX_IDLE_S", 0.0)
    with serving(tell_peer) as port, gateway_of(port) as client:
        peers = {client.post("/invocations", content=b"abc").text for _ in range(3)}
    assert len(peers) == 3


def test_a_connection_that_the_replica_means_to_close_is_not_used() -> None:
    with keeping_server(CLOSING) as (port, peers), gateway_of(port) as client:
        answers = [client.post("/invocations", content=b"abc").text for _ in range(3)]
    assert answers == ["ok"] * 3
    assert len(peers) == 3


@pytest.mark.parametrize("more", [OK.replace(b"ok", b"no"), b"no"])
def test_what_comes_after_an_answer_is_not_taken_for_the_next(more: bytes) -> None:
    with keeping_server(OK + more) as (port, peers), gateway_of(port) as client:
        answers = [client.post("/invocations", content=b"abc").text for _ in range(3)]
    assert answers == ["ok"] * 3
    assert len(peers) == 3


def test_a_body_that_follows_a_head_is_not_taken_for_an_answer() -> None:
    with keeping_server(OK) as (port, peers), gateway_of(port) as client:
        assert client.head("/ping").status_code == 200
        assert client.post("/invocations", content=b"abc").text == "ok"
    assert len(peers) == 2
