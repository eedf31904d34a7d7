"""One HTTP/1.1 connection to a replica, one exchange at a time, on httptools' parser."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import Final, NamedTuple, cast

import httptools

from rayserve_app.types import Buffer

Header = tuple[bytes, bytes]

HIGH_WATER_BYTES: Final = 1 << 20
"""A replica is not read from while so much of its answer waits for the client."""

READ_BYTES: Final = 1 << 16


class ReplicaLost(Exception):
    """The connection ended before an answer began, or within it."""


class Head(NamedTuple):
    """An answer's status and headers, their names in lower case."""

    status: int
    headers: list[Header]


class Connection(asyncio.Protocol):
    """`send`, then `head`, then `read` until it returns nothing; then again, if `is_reusable`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._writable: asyncio.Future[None] | None = None
        self._is_open = False
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[Header] = []
        self._status = 0
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_paused = False
        self._is_complete = False
        self._is_kept = False
        self._has_body = True
        self._changed: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        return self._is_open

    @property
    def is_reusable(self) -> bool:
        """Whether the exchange is over and the replica keeps the connection. It must not be paused:
        it would not hear the next answer."""
        return self._is_open and self._is_complete and self._is_kept and not self._is_paused

    def send(self, head: bytes, body: Buffer = b"", *, has_body: bool = True) -> None:
        """Send a request's head and what there is of its body.

        Args:
            has_body: false if the answer will have no body whatever its headers say, as for HEAD.
        """
        self._begin()
        self._has_body = has_body
        self._transport.writelines((head, body))

    async def write(self, data: Buffer) -> None:
        """Send more of the body, as fast as the replica takes it.

        Raises:
            ReplicaLost: it does not any more.
        """
        if not self._is_open:
            raise ReplicaLost
        self._transport.write(data)
        if self._writable is not None:
            await self._writable

    async def head(self) -> Head:
        """Wait for the answer's head.

        Raises:
            ReplicaLost: it will not come.
        """
        while not self._status:
            await self._change()
        return Head(self._status, self._headers)

    async def read(self) -> bytes:
        """Return what there is of the answer's body, b"" at its end.

        Raises:
            ReplicaLost: the end will not come.
        """
        while not self._pieces and not self._is_complete:
            await self._change()
        data = self._pieces.popleft() if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._waiting_bytes = 0
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    @property
    def is_complete(self) -> bool:
        """Whether all of the answer has come, if not been read."""
        return self._is_complete

    def close(self) -> None:
        """End the connection, and with it an answer that nobody waits for any more."""
        if self._is_open:
            self._is_open = False
            # Its twin would keep the socket open, into which the replica writes on.
            os.close(self._descriptor)
            self._transport.abort()

    async def _change(self) -> None:
        if not self._is_open:
            raise ReplicaLost
        self._changed = self._loop.create_future()
        await self._changed

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._descriptor = os.dup(transport.get_extra_info("socket").fileno())
        self._is_open = True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_open:
            self._is_open = False
            self._read_what_is_left()
        self.resume_writing()
        self._wake()

    def _read_what_is_left(self) -> None:
        """A replica that answers before a body's end closes the connection with the rest unread.
        The transport then fails to write, and forgets what it has not read: the answer. Such a
        one is small; of what is not, no more is taken than waits for a client at any time."""
        left = HIGH_WATER_BYTES - self._waiting_bytes
        try:
            while not self._is_complete and left > 0:
                if not (data := os.read(self._descriptor, min(left, READ_BYTES))):
                    break
                left -= len(data)
                self._parser.feed_data(data)
        except (OSError, httptools.HttpParserError):
            pass
        finally:
            os.close(self._descriptor)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # What the parser calls; what these raise, it raises as one of its own errors.

    def on_message_begin(self) -> None:
        self._refuse_more()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if not self._has_body:
            self.on_message_complete()

    def on_body(self, body: bytes) -> None:
        self._refuse_more()
        self._pieces.append(body)
        self._waiting_bytes += len(body)
        if self._waiting_bytes > HIGH_WATER_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._is_complete = True
        # Afterwards the parser has forgotten the headers that say so.
        self._is_kept = self._parser.should_keep_alive()

    def _refuse_more(self) -> None:
        """What comes after the end would be taken for the answer to the next request."""
        if self._is_complete:
            raise ReplicaLost
