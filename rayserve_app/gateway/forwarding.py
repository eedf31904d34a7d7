"""Forwards one request to a replica, and its answer back, both as they come.

A prediction may be repeated safely: a request whose replica is lost before it answers goes once to
another one, if nothing of its body had been sent or all of it is still at hand. Where there is no
other it waits for one, as long as the model's deadline lasts.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import inf
from typing import Final, NamedTuple
from urllib.parse import quote

from starlette.types import Receive, Scope, Send

from rayserve_app.errors import BodyTimeout, DeadlineExceeded, ModelNotReady, RequestTooLarge
from rayserve_app.gateway.connection import Connection, Head, Header, ReplicaLost
from rayserve_app.gateway.replicas import Address, Connections, Directory, ServedModel
from rayserve_app.types import Buffer
from rayserve_app.web.messages import FORWARDED, GATEWAYS, BodyBudget
from rayserve_app.web.scope import CLIENT_HEADERS, REQUEST_ID

ORDER: Final = FORWARDED.encode()

LOOPS: Final = GATEWAYS.encode()
"""The gateways that a request has passed, by names that nobody else can know: one that finds its
own forwards the request no more. What a client writes there is nobody's name."""

MODEL: Final = b"x-rayserve-model"
"""The header of an answer that says which model gave it."""

MAX_KEPT_BYTES: Final = 1_000_000
"""Of a body, to be sent again if its replica is lost."""

MAX_ATTEMPTS: Final = 2
"""Requests sent; a replica that cannot be reached at all has been sent none."""

LOOK_AGAIN_S: Final = 0.25
"""While a request waits for a replica; what Serve tells ends the wait sooner."""

TAKE_BREATH_S: Final = 0.1
"""Before a replica that has just been lost is asked once more: one that dies may do so in parts."""

LATE_S: Final = 0.5
"""By how much an answer may be late: after its model's deadline the model's own is on its way."""

WATCH_AFTER_S: Final = 0.05
"""Most answers come sooner: only then it is worth looking whether the client is still there, and
at the clock."""

# RFC 9110, section 7.6.1; `Expect` has been answered by this server already.
HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"expect",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

UNSENT: Final = HOP_BY_HOP | {ORDER, LOOPS}
"""What of a request is not passed on as it is."""

UNWANTED: Final = HOP_BY_HOP | {b"date", b"server", MODEL}
"""What of an answer is not passed on: uvicorn writes `date` and `server` into every one itself."""

UNWANTED_IN_SERVE: Final = UNWANTED | {REQUEST_ID}
"""Serve writes the third, which it shares with the replica."""

LAST_CHUNK: Final = b"0\r\n\r\n"

# What may stand in a path as it is (RFC 3986, section 3.3).
SAFE: Final = "/:@!$&'()*+,;=~"


class ClientLeft(Exception):
    """There is nobody to answer."""


class AnswerCut(Exception):
    """The replica was lost within its answer, of which the client has a part."""


class Upload:
    """The body of a request on its way; a small one can be sent once more."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: list[Buffer] | None = []
        self._budget: BodyBudget | None = None
        self._held = 0
        self.size = 0
        """Bytes that have come."""
        self.is_whole = False
        """Whether its end has come."""
        self.whole_at = 0.0
        """And when, by the loop's clock."""

    async def next(self) -> Buffer:
        """Return the next piece.

        Raises:
            ClientLeft: it will not come.
        """
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        piece: Buffer = message.get("body", b"")
        if not message.get("more_body", False):
            self.is_whole = True
            self.whole_at = asyncio.get_running_loop().time()
        self.size += len(piece)
        if self._kept is not None:
            self._kept.append(piece)
        return piece

    async def read(self, budget: BodyBudget, *, max_bytes: int, timeout_s: float) -> None:
        """Let all of it come; `give_back` returns what it holds of the budget.

        Raises:
            ClientLeft: it will not come.
            RequestTooLarge, BodyTimeout, Overloaded: it is given up.
        """
        self._budget = budget
        self._hold(self.size)
        while not self.is_whole:
            self._hold(len(await self.next_within(timeout_s)))
            if self.size > max_bytes:
                raise RequestTooLarge(
                    "The body is too large", expected=f"at most {max_bytes} bytes", got="more"
                )

    async def next_within(self, timeout_s: float) -> Buffer:
        """Return the next piece.

        Raises:
            ClientLeft: it will not come.
            BodyTimeout: it has not come in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self.next()
        except TimeoutError as exc:
            raise BodyTimeout(
                "The body came too slowly", expected=f"no pause over {timeout_s:g} s"
            ) from exc

    def give_back(self) -> None:
        """Return what `read` took of the budget."""
        if self._budget is not None:
            self._budget.give_back(self._held)

    def _hold(self, count: int) -> None:
        if self._budget is not None:
            self._budget.take(count)
            self._held += count

    async def wait_for_disconnect(self) -> None:
        """Return when the client has left; call it after the body's end."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    @property
    def can_restart(self) -> bool:
        """Whether all that has come can be sent again."""
        return self._kept is not None

    def start(self) -> Buffer:
        """Return all that has come, which is to be sent at first, or once more."""
        assert self._kept is not None
        return self._kept[0] if len(self._kept) == 1 else b"".join(self._kept)

    def forget_if_large(self) -> None:
        """Keep no more of what has been sent if it is too much."""
        if self.size > MAX_KEPT_BYTES:
            self._kept = None


class Forwarder:
    """Forwards requests over connections that it keeps."""

    def __init__(
        self, connections: Connections, directory: Directory, order: Sequence[str]
    ) -> None:
        """
        Args:
            order: of the protocols that may answer; if empty, that of the model that answers.
        """
        self._directory = directory
        self._connections = connections
        self._order = ",".join(order).encode()
        self._name = secrets.token_hex(16).encode()

    def has_sent(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a request has been forwarded here before."""
        return self._name in headers.get(LOOPS, b"")

    async def send(
        self, scope: Scope, path: str, upload: Upload, send: Send, model: ServedModel
    ) -> None:
        """Answer a request as one of the model's replicas does.

        Args:
            path: what to ask the replica for, decoded.
            upload: the body, of which the first piece has come.
        Raises:
            ModelNotReady: there is no replica, or those that were asked were lost.
            DeadlineExceeded: no answer came in time.
            AnswerCut, ClientLeft: there is no way to go on.
        """
        asked_at = asyncio.get_running_loop().time()
        request = _request(scope, path, upload, self._order, self._name, model)
        lost: list[Address] = []
        gone: set[Address] = set()
        while True:
            # Its body may have come while a replica was lost.
            started_at = max(asked_at, upload.whole_at)
            address = await self._place(model, lost, gone, started_at + model.patience_s)
            try:
                # As long as its body comes, it has all of its deadline before it.
                late_at = started_at + request.limit_s if upload.is_whole else inf
                lease = await self._connections.take(address, late_at)
            except ReplicaLost:
                gone.add(address)
                continue
            try:
                exchange = _Exchange(lease.connection, upload, send, started_at)
                return await exchange.run(request)
            except ReplicaLost as exc:
                # Others that were opened at the same time are likely to be lost as well.
                self._connections.drop_idle(address)
                lost.append(address)
                if len(lost) == MAX_ATTEMPTS or not upload.can_restart:
                    raise ModelNotReady(f"A replica of model {model.name!r} was lost") from exc
            finally:
                self._connections.give_back(lease)

    async def _place(
        self, model: ServedModel, lost: Sequence[Address], gone: set[Address], until: float
    ) -> Address:
        """Return the replica for the next attempt.

        Args:
            lost: those that were lost with an attempt: others come first.
            gone: those that could not be reached; after a while they are tried again.
            until: by the loop's clock, how long to wait for one.
        Raises:
            ModelNotReady: there is none.
        """
        may_breathe = bool(lost)
        while True:
            known = self._directory.find(model.name) or model
            there = [each for each in known.replicas if each not in gone]
            left = until - asyncio.get_running_loop().time()
            if may_breathe and left > 0 and not set(there) - set(lost):
                may_breathe = False
                await self._directory.news(min(left, TAKE_BREATH_S))
                continue
            if there:
                return self._connections.choose(there, without=lost)
            if left <= 0:
                raise ModelNotReady(f"Model {model.name!r} has no replica at the moment")
            await self._directory.news(min(left, LOOK_AGAIN_S))
            gone.clear()


class _Request(NamedTuple):
    """What is sent before the body, and how the body is sent."""

    head: bytes
    is_chunked: bool
    has_answer_body: bool
    unwanted: frozenset[bytes]
    """Headers of the answer that are not passed on."""
    model: bytes
    """The model's name, as a header has it."""
    limit_s: float
    """From the end of its body to the head of the answer."""


def _request(
    scope: Scope, path: str, upload: Upload, order: bytes, gateway: bytes, model: ServedModel
) -> _Request:
    all_headers = _request_headers(scope)
    headers = _end_to_end(all_headers)
    target = quote(path, safe=SAFE).encode()
    if query := scope.get("query_string", b""):
        target += b"?" + query
    lines = [b"%s %s HTTP/1.1" % (scope["method"].encode(), target)]
    lines += [b"%s: %s" % header for header in headers]
    has_length = any(name == b"content-length" for name, _ in headers)
    is_chunked = not has_length and not upload.is_whole
    if is_chunked:
        lines.append(b"transfer-encoding: chunked")
    elif not has_length and upload.size:
        lines.append(b"content-length: %d" % upload.size)
    passed = [value + b"," for name, value in all_headers if name == LOOPS]
    lines.append(b"%s: %s" % (ORDER, order))
    lines.append(b"%s: %s%s\r\n\r\n" % (LOOPS, passed[-1] if passed else b"", gateway))
    unwanted = UNWANTED_IN_SERVE if CLIENT_HEADERS in scope else UNWANTED
    return _Request(
        b"\r\n".join(lines),
        is_chunked,
        scope["method"] != "HEAD",
        unwanted,
        _quoted(model.name),
        model.deadline_s + LATE_S,
    )


def _end_to_end(headers: Sequence[Header]) -> list[Header]:
    """Return the headers that are not for this hop alone; a client may name more of those."""
    named = b",".join(value for name, value in headers if name == b"connection").lower()
    unsent = UNSENT | {each.strip() for each in named.split(b",")} if named else UNSENT
    return [header for header in headers if header[0] not in unsent]


@lru_cache(maxsize=1024)
def _quoted(name: str) -> bytes:
    """Return a model's name as a header has it."""
    return quote(name, safe=" " + SAFE).encode()


def _request_headers(scope: Scope) -> list[Header]:
    """Return the client's headers; within Serve, with the identifier that Serve has given the
    request, which the replica's logs are then to be found by as well."""
    if CLIENT_HEADERS not in scope:
        own: list[Header] = scope["headers"]
        return own
    headers = [header for header in scope[CLIENT_HEADERS] if header[0] != REQUEST_ID]
    headers += [header for header in scope["headers"] if header[0] == REQUEST_ID]
    return headers


class _Exchange:
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

    async def run(self, request: _Request) -> None:
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

    async def _answer(self, request: _Request) -> None:
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

    def _start_attending(self, answering: asyncio.Task[None], request: _Request) -> None:
        if self._upload.is_whole:
            self._start_clock(request.limit_s, self._started_at)
        self._attending = asyncio.ensure_future(self._attend(answering, request))

    async def _attend(self, answering: asyncio.Task[None], request: _Request) -> None:
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

    async def _send_rest(self, request: _Request) -> None:
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
