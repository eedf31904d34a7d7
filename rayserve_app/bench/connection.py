"""One kept HTTP/1.1 connection of the load generator, and what it keeps of an answer."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, cast


class Answer(NamedTuple):
    """What came back."""

    status: int
    head: bytes
    body_bytes: int
    body: bytes = b""
    """Empty unless the connection keeps bodies: load needs their length alone."""

    def header(self, name: str) -> str:
        """Return a header's value, empty if absent."""
        return find_header(self.head, name.lower().encode()).decode("latin-1")

    @property
    def headers(self) -> dict[str, str]:
        """All headers; names are in lower case."""
        pairs = (line.partition(":") for line in self.head.decode("latin-1").split("\r\n")[1:])
        return {name.strip().lower(): value.strip() for name, _, value in pairs}


class Connection(asyncio.Protocol):
    """One kept connection with one request at a time."""

    def __init__(self, *, keeps_bodies: bool = False) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._keeps_bodies = keeps_bodies
        self._head, self._body = b"", bytearray()
        self._expected = -1
        self._received = 0

    @classmethod
    async def open(cls, host: str, port: int, *, keeps_bodies: bool = False) -> Connection:
        loop, connection = asyncio.get_running_loop(), cls(keeps_bodies=keeps_bodies)
        await loop.create_connection(lambda: connection, host, port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def send(self, request: bytes) -> Answer:
        """Send one request and wait for the end of its answer."""
        if self._transport is None or not self.is_open:
            raise ConnectionError("the server closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._head, self._body, self._expected, self._received = b"", bytearray(), -1, 0
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        if self._expected < 0:
            self._head += data
            head, separator, data = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            self._head = head
            self._expected = int(find_header(head, b"content-length"))
        self._received += len(data)
        if self._keeps_bodies:
            self._body += data
        if self._received >= self._expected and self._answer and not self._answer.done():
            body = bytes(self._body[: self._expected])
            self._answer.set_result(Answer(int(self._head[9:12]), self._head, self._received, body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server closed the connection"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def find_header(head: bytes, name: bytes) -> bytes:
    """Return a header's value, empty if absent; the name is in lower case."""
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()
