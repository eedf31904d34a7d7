"""One request over one connection to a replica, and its answer."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Send

from rayserve_app.errors import DeadlineExceeded
from rayserve_app.gateway.connection import Connection, Head, ReplicaLost
from rayserve_app.gateway.request_head import MODEL, RequestHead
from rayserve_app.gateway.upload import ClientLeft, Upload
from rayserve_app.types import Buffer

WATCH_AFTER_S: Final = 0.05
"""Most answers come sooner: only then it is worth looking whether the client is still there, and
at the clock."""

LAST_CHUNK: Final = b"0\r\n\r\n"


class AnswerCut(Exception):
    """The replica was lost within its answer, of which the client has a part."""


class Exchange:
    """One request over one connection."""

    def __init__(
        self, connection: Connection, upload: Upload, send: Send, started_at: float
    ) -> None:
        """
        Args:
            started_at: when all of the body was there, if it is, by the loop's clock.
        """
        self._connection = connection
        self._upload = upload
        self._send = send
        self._attending: asyncio.Task[None] | None = None
        self._has_client = True
        self._is_sent = upload.is_whole
        self._started_at = started_at
        self._clock: asyncio.TimerHandle | None = None
        self._has_head = self._is_late = False

    async def run(self, request: RequestHead) -> None:
        """Send the request, and send on the answer."""
        task = asyncio.current_task()
        assert task is not None
        upload, connection = self._upload, self._connection
        first = upload.start()
        if request.is_chunked:
            first = _chunk(first)
            if upload.is_whole:  # only by now, and it is sent once more
                first = b"".join((first, LAST_CHUNK))
        connection.send(request.head, first, has_body=request.has_answer_body)
        upload.forget_if_large()
        timer = asyncio.get_running_loop().call_later(
            WATCH_AFTER_S if upload.is_whole else 0, self._start_attending, task, request
        )
        try:
            await self._answer(request)
        except asyncio.CancelledError:
            if self._has_client or task.uncancel():
                raise
            raise ClientLeft from None
        finally:
            timer.cancel()
            if self._clock is not None:
                self._clock.cancel()
            if self._attending is not None:
                self._attending.cancel()
            if not self._is_sent:
                connection.close()

    async def _answer(self, request: RequestHead) -> None:
        connection = self._connection
        head = await self._head()
        headers = [header for header in head.headers if header[0] not in request.unwanted]
        headers.append((MODEL, request.model))
        start = {"type": "http.response.start", "status": head.status, "headers": headers}
        await self._send(start)
        is_last = False
        while not is_last:
            try:
                data = await connection.read()
            except ReplicaLost as exc:
                raise AnswerCut from exc
            is_last = connection.is_complete
            body = {"type": "http.response.body", "body": data, "more_body": not is_last}
            await self._send(body)

    async def _head(self) -> Head:
        try:
            head = await self._connection.head()
        except ReplicaLost as exc:
            if self._is_late:
                raise DeadlineExceeded("The model gave no answer within its deadline") from exc
            raise
        self._has_head = True
        return head

    def _start_clock(self, limit_s: float, since: float) -> None:
        """Let the answer begin within a time from when all of the body was there."""
        if not self._has_head:
            self._clock = asyncio.get_running_loop().call_at(since + limit_s, self._give_up)

    def _give_up(self) -> None:
        if not self._has_head:
            self._is_late = True
            self._connection.close()

    def _start_attending(self, answering: asyncio.Task[None], request: RequestHead) -> None:
        if self._upload.is_whole:
            self._start_clock(request.limit_s, self._started_at)
        self._attending = asyncio.ensure_future(self._attend(answering, request))

    async def _attend(self, answering: asyncio.Task[None], request: RequestHead) -> None:
        """Send the rest of the body, then wait for the client to leave."""
        try:
            if not self._upload.is_whole:
                await self._send_rest(request)
            await self._upload.wait_for_disconnect()
        except ReplicaLost:
            return  # who waits for the answer is told as well
        except ClientLeft:
            pass
        self._has_client = False
        answering.cancel()

    async def _send_rest(self, request: RequestHead) -> None:
        while not self._upload.is_whole:
            piece = await self._upload.next()
            if piece:
                await self._connection.write(_chunk(piece) if request.is_chunked else piece)
            self._upload.forget_if_large()
        if request.is_chunked:
            await self._connection.write(LAST_CHUNK)
        self._is_sent = True
        self._start_clock(request.limit_s, asyncio.get_running_loop().time())


def _chunk(piece: Buffer) -> Buffer:
    """Return a piece as a chunk of its own (RFC 9112, section 7.1); an empty one would be the
    end."""
    return b"".join((b"%x\r\n" % len(piece), piece, b"\r\n")) if piece else b""
