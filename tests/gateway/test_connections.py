"""The gateway's connections to replicas: kept between requests, and never out of step."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from rayserve_app.gateway import replicas
from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.connection import HIGH_WATER_BYTES, Connection
from rayserve_app.gateway.replicas import Address, Connections, Directory, ServedModel
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


ENDLESS = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n"

PIECE = bytes(1 << 20)


@contextmanager
def endless_server() -> Iterator[tuple[int, list[int], threading.Event]]:
    """Answer with a gigabyte as fast as it is taken; yield the port, what has been, in bytes, and
    what is set when the peer has gone."""
    taken: list[int] = []
    has_ended = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1 << 16)
            try:
                self.request.sendall(ENDLESS)
                while sum(taken) < 1_000_000_000:
                    taken.append(self.request.send(PIECE))
            except OSError:
                pass
            has_ended.set()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], taken, has_ended
        server.shutdown()


def test_a_client_that_leaves_amid_a_large_answer_ends_it_at_the_replica() -> None:
    with endless_server() as (port, taken, has_ended), gateway_of(port) as client:
        address = (client.base_url.host, client.base_url.port or 0)
        with socket.create_connection(address) as leaving:
            leaving.sendall(b"GET /ping HTTP/1.1\r\nhost: a\r\n\r\n")
            assert leaving.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert has_ended.wait(10)
        assert sum(taken) < 2_000_000_000  # what passes in a moment; it never ended before


async def test_of_an_answer_that_a_lost_connection_leaves_a_bounded_part_is_read() -> None:
    """As when a replica answers, and closes, while the request's body is being written."""
    with endless_server() as (port, _, has_ended):
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await connection.head()).status == 200
        while not connection._waiting_bytes:
            await asyncio.sleep(0.01)
        connection.connection_lost(BrokenPipeError())
        assert len(await connection.read()) <= HIGH_WATER_BYTES
        connection._transport.abort()
        assert await asyncio.to_thread(has_ended.wait, 10)


async def test_a_replica_that_comes_back_has_what_is_under_way_counted() -> None:
    """Serve may leave an address out for a second while its requests run on."""
    with serving(tell_peer) as first, serving(tell_peer) as second:
        here, there = Address("127.0.0.1", first), Address("127.0.0.1", second)
        model = ServedModel("m", "/m", (here, there))
        connections = Connections()
        leases = [await connections.take(here) for _ in range(2)]
        connections.keep_only([there])
        connections.keep_only([here, there])
        assert connections.choose(model.replicas) == there
        for lease in leases:
            connections.give_back(lease)
        # Nobody has anything under way now: neither is preferred for ever.
        chosen = []
        for _ in range(4):
            chosen.append(connections.choose(model.replicas))
            connections.give_back(await connections.take(chosen[-1]))
        assert sorted(chosen) == sorted([here, there] * 2)
        connections.close()
