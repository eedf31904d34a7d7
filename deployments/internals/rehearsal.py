"""A conversation with a server of uvicorn's, to see whether our connections work with it.

It needs every attribute, argument and type of uvicorn's that `connection` uses: where one is not as
it is known, some answer is wrong or missing, which is better seen before a client asks.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from starlette.types import Message, Receive, Scope, Send
from uvicorn import Config, Server

from deployments.internals.versions import NotAsKnown

TIMEOUT_S: Final = 5.0

SILENCED: Final = ("uvicorn.error", "deployments.internals.connection")
"""Loggers that tell of failures, which one warning tells of here."""

PIECE: Final = bytes(1 << 20)

BUFFER_BYTES: Final = 1 << 16
"""Of the sockets: the server has to wait before it sends the next piece."""

PIECES: Final = 2

CONVERSATION: Final = (
    b"POST /short/echo%20 HTTP/1.1\r\ncontent-length: 2\r\nexpect: 100-continue\r\n"
    b"x-request-id: 1\r\n\r\nhi",
    b"GET /usual/echo HTTP/1.1\r\n\r\nGET /short/stream HTTP/1.1\r\nx-request-id: 2\r\n\r\n",
    b"POST /short/echo HTTP/1.1\r\ntransfer-encoding: chunked\r\nx-request-id: 3\r\n\r\n"
    b"80000\r\n%b\r\n0\r\n\r\n" % bytes(0x80000),
    b"HEAD /short/echo HTTP/1.1\r\nx-request-id: 4\r\n\r\n",
    b"GET /short/large HTTP/1.1\r\nx-request-id: 5\r\nconnection: close\r\n\r\n",
)

EXPECTED: Final = b"".join(
    (
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-request-id: 1\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nusual",
        b"HTTP/1.1 200 OK\r\nx-request-id: 2\r\ntransfer-encoding: chunked\r\n\r\n",
        b"3\r\nhi!\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 524288\r\nx-request-id: 3\r\n\r\n%b" % bytes(0x80000),
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-request-id: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n" % (len(PIECE) * PIECES),
        b"x-request-id: 5\r\nconnection: close\r\n\r\n%b" % (PIECE * PIECES),
    )
)

ENDED: Final = [
    ("POST", 200, None),
    ("GET", 200, None),
    ("POST", 200, None),
    ("HEAD", 200, None),
    ("GET", 200, None),
]
"""How the requests of the conversation past Serve end."""


class Rehearsal:
    """A server's app, a replica's own one and its accounts (`connection.Accounts`), all in one."""

    prefix = "/short"

    are_enough = True

    def __init__(self) -> None:
        self._has_left = threading.Event()
        self._ended: list[tuple[str, int, str | None]] = []

    async def begin(self) -> None:
        return

    def end(self, method: str, status: int, started_at: float, error: str | None) -> None:
        self._ended.append((method, status, error))

    async def answer_for_serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send(send, b"usual")

    async def answer_past_serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        message: Message = {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        if message["type"] == "http.disconnect":
            self._has_left.set()
        elif scope["path"] == "/short/stream":
            await _send(send, b"hi!", has_length=False)
        elif scope["path"] == "/short/large":
            await _send(send, *[PIECE] * PIECES)
        else:
            await _send(send, body)

    def run(self) -> None:
        """Have the conversation with a server that has the connections of uvicorn's choice. Blocks
        for some 50 ms.

        Raises:
            NotAsKnown: an answer is not the expected one.
            OSError: there is none.
        """
        with self._running() as address:
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
                client.settimeout(TIMEOUT_S)
                client.connect(address)
                for part in CONVERSATION:
                    client.sendall(part)
                received = _read_all(client)
            with socket.create_connection(address, TIMEOUT_S) as client:
                client.sendall(b"POST /short/ HTTP/1.1\r\ncontent-length: 2\r\n\r\nh")
            if received != EXPECTED:
                raise NotAsKnown("Connections do not answer as they should")
            if not self._has_left.wait(TIMEOUT_S):
                raise NotAsKnown("Connections do not notice that their clients leave")
            if self._ended[: len(ENDED)] != ENDED:
                raise NotAsKnown("Connections do not tell how requests end")

    @contextmanager
    def _running(self) -> Iterator[tuple[str, int]]:
        """Run the server in a thread; yields where it listens."""
        config = Config(
            self.answer_for_serve,
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            date_header=False,
            server_header=False,
        )
        server = Server(config)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)

        async def serve() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            with listener:
                await server.serve([listener])

        loggers = [logging.getLogger(name) for name in SILENCED]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = server.force_exit = True
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _read_all(client: socket.socket) -> bytes:
    received = []
    while data := client.recv(1 << 20):
        received.append(data)
    return b"".join(received)


async def _send(send: Send, *pieces: bytes, has_length: bool = True) -> None:
    length = b"%d" % sum(map(len, pieces))
    headers = [(b"content-length", length)] if has_length else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
