"""The HTTP connections of a replica: uvicorn's, with a shorter way to the replica's own app.

Between uvicorn and a replica's app stand what Serve wraps around it and what uvicorn does for apps
that it does not know. Both cost more than a small image. Requests that need neither go to the app
itself, and Serve's accounts of them are kept; the others, and all where Serve is not as it is
known, take the usual way.
"""

from __future__ import annotations

import logging
import uuid
from asyncio import AbstractEventLoop, Event, Protocol
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import chain, count
from time import perf_counter
from typing import Any, Final
from typing import Protocol as Interface
from urllib.parse import unquote

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS, Config
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from deployments.internals.rehearsal import Rehearsal
from rayserve_app.types import Buffer
from rayserve_app.web.scope import CLIENT_HEADERS, REQUEST_ID

logger = logging.getLogger(__name__)

SERVE_PATHS: Final = "/-/"
"""Below it Serve answers itself, whether its replica is healthy."""

FRAMING: Final = frozenset({b"connection", b"transfer-encoding"})
"""Headers of an answer that say how it ends."""

CONTROLS: Final = bytes({*range(0x20), 0x7F} - {0x09})
"""What no header's value holds; a line of a head has two, its end."""

MAX_JOINED_BYTES: Final = 1 << 16
"""Up to this size the first piece of a body is copied behind the head: one packet, one buffer."""

MAX_WAITING_BYTES: Final = 1 << 18
"""Of a body that has come, while its app does not ask for it."""


class Accounts(Interface):
    """What Serve keeps of a replica's requests."""

    @property
    def prefix(self) -> str:
        """The path below which the app's own begin."""

    @property
    def are_enough(self) -> bool:
        """Whether a request needs nothing else of Serve: it has not to wait for others, to end
        after a time of Serve's, to be traced or to be logged."""

    async def begin(self) -> None:
        """Count a request in; does not wait where `are_enough`."""

    def end(self, method: str, status: int, started_at: float, error: str | None) -> None:
        """Count it out.

        Args:
            status: 0 if there was no answer.
            started_at: by `time.perf_counter`.
            error: the name of the exception that the app raised, if any.
        """


def use_connections(own: ASGIApp, find_accounts: Callable[[ASGIApp], Accounts | None]) -> None:
    """Let the servers that uvicorn starts in this process from now on have such connections.

    Args:
        own: the replica's own app.
        find_accounts: returns those of the replica that a server's app belongs to, if any.
    Raises:
        Exception: uvicorn is not as it is known here, and has its own connections still.
    """
    before = HTTP_PROTOCOLS["auto"]
    try:
        rehearsal = Rehearsal()
        trial = Connections(rehearsal.answer_past_serve, lambda _: rehearsal)
        HTTP_PROTOCOLS["auto"] = trial  # type: ignore[assignment]
        rehearsal.run()
        HTTP_PROTOCOLS["auto"] = Connections(own, find_accounts)  # type: ignore[assignment]
    except Exception:
        HTTP_PROTOCOLS["auto"] = before
        raise


class Connections:
    """Makes the connections of servers, as uvicorn's Config asks for them."""

    def __init__(self, own: ASGIApp, find_accounts: Callable[[ASGIApp], Accounts | None]) -> None:
        self._own = own
        self._find_accounts = find_accounts
        self._shortcuts: dict[Config, Shortcut] = {}

    def __call__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> Protocol:
        shortcut = self._shortcuts.get(config)
        if shortcut is None:
            accounts = self._find_accounts(config.loaded_app)
            shortcut = self._shortcuts[config] = Shortcut(self._own, accounts)
        return Connection(config, server_state, app_state, _loop, shortcut)


class Shortcut:
    """The way to a replica's own app past Serve, with Serve's accounts kept."""

    def __init__(self, own: ASGIApp, accounts: Accounts | None) -> None:
        self._own = own
        self._accounts = accounts
        self._id_prefix = str(uuid.uuid4())[:-12]
        self._numbers = count()

    def suits(self, scope: Scope) -> bool:
        """Whether the app itself can answer a request now."""
        accounts = self._accounts
        if accounts is None:
            return False
        path: str = scope["path"][len(scope["root_path"]) :]
        is_ours = path.startswith(accounts.prefix) and not path.startswith(SERVE_PATHS)
        return is_ours and accounts.are_enough

    async def answer(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app answer an exchange that `suits`."""
        accounts = self._accounts
        assert accounts is not None
        client_headers = scope[CLIENT_HEADERS] = scope["headers"]
        exchange.request_id = dict(client_headers).get(REQUEST_ID) or self._next_id()
        scope["headers"] = [(REQUEST_ID, exchange.request_id)]
        if accounts.prefix != "/":
            scope["root_path"] += accounts.prefix
        started_at = perf_counter()
        error = None
        await accounts.begin()
        try:
            await self._own(scope, receive, send)
        except BaseException as exc:
            error = type(exc).__name__
            if isinstance(exc, Exception):
                logger.exception("Request %s failed", exchange.request_id.decode("latin-1"))
            raise
        finally:
            accounts.end(scope["method"], exchange.status, started_at, error)

    def _next_id(self) -> bytes:
        """Return a name for a request that has none, in the form of a UUID."""
        return f"{self._id_prefix}{next(self._numbers):012x}".encode()


class Connection(HttpToolsProtocol):
    """One connection; its requests become `Exchange`s."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None,
        shortcut: Shortcut,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._shortcut = shortcut
        # uvicorn asks for handlers instead, and others may have added some.
        self.access_log = self.access_log and config.access_log

    def on_headers_complete(self) -> None:
        if self.limit_concurrency is not None or self.parser.should_upgrade():
            super().on_headers_complete()
            return
        scope = self.scope
        scope["method"] = self.parser.get_method().decode("ascii")
        http_version = self.parser.get_http_version()
        scope["http_version"] = http_version
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = self.root_path + (unquote(path) if "%" in path else path)
        scope["raw_path"] = self.root_path.encode("ascii") + url.path
        scope["query_string"] = url.query or b""
        before = self.cycle
        self.cycle = Exchange(
            self, keep_alive=http_version != "1.0" and self.parser.should_keep_alive()
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if not isinstance(cycle, Exchange):
            super().on_body(body)
        elif not cycle.response_complete:
            cycle.take(body)


class Exchange(RequestResponseCycle):
    """One request and its answer."""

    def __init__(self, connection: Connection, *, keep_alive: bool) -> None:
        super().__init__(
            scope=connection.scope,
            transport=connection.transport,
            flow=connection.flow,
            logger=connection.logger,
            access_logger=connection.access_logger,
            access_log=connection.access_log,
            default_headers=connection.server_state.default_headers,
            message_event=Event(),
            expect_100_continue=connection.expect_100_continue,
            keep_alive=keep_alive,
            on_response=connection.on_response_complete,
        )
        self._shortcut = connection._shortcut
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0
        self._head = b""
        self._left_bytes = 0
        self._is_written_here = False
        self.request_id: bytes | None = None
        """What Serve would name the request, where it takes no part in it."""
        self.status = 0
        """Of the answer, once it has begun."""

    async def run_asgi(self, app: Any) -> None:
        scope: Any = self.scope
        if self._shortcut.suits(scope):
            app = partial(self._shortcut.answer, self)
        await super().run_asgi(app)

    def take(self, body: bytes) -> None:
        """Keep a piece of the body until the app asks for it."""
        self._pieces.append(body)
        self._waiting_bytes += len(body)
        if self._waiting_bytes > MAX_WAITING_BYTES:
            self.flow.pause_reading()
        self.message_event.set()

    async def receive(self) -> Any:
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        pieces, self._pieces, self._waiting_bytes = self._pieces, [], 0
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        if self._is_written_here:
            if self.flow.write_paused and not self.disconnected:
                await self.flow.drain()
            if not self.disconnected:
                self._write(message)
        elif self.response_started or self.disconnected or not self._begin(message):
            await super().send(message)

    def _begin(self, message: Message) -> bool:
        """Keep the head of an answer for its first piece; return False if it is to be written by
        uvicorn, which knows chunks and answers without a body."""
        if message["type"] != "http.response.start":
            return False
        self.status = status = message["status"]
        headers = message["headers"] = [*message.get("headers", ())]
        if self.request_id is not None and all(name != REQUEST_ID for name, _ in headers):
            headers.append((REQUEST_ID, self.request_id))
        if self.access_log or self.scope["method"] == "HEAD":
            return False
        length = None
        lines = [STATUS_LINE[status]]
        for name, value in chain(self.default_headers, headers):
            name = _header_name(name)
            if name == b"content-length" and length is None:
                length = int(value)
            elif name in FRAMING:
                return False
            lines.append(b"%b: %b\r\n" % (name, value))
        if length is None:
            return False
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        head = b"".join([*lines, b"\r\n"])
        if len(head) - len(head.translate(None, CONTROLS)) != 2 * (len(lines) + 1):
            raise RuntimeError("Invalid HTTP header value.")
        self._head, self._is_written_here = head, True
        self._left_bytes = length
        self.response_started = True
        self.waiting_for_100_continue = False
        return True

    def _write(self, message: Message) -> None:
        if message["type"] != "http.response.body" or self.response_complete:
            raise RuntimeError(f"Unexpected ASGI message {message['type']!r}")
        body: Buffer = message.get("body", b"")
        more_body = message.get("more_body", False)
        self._left_bytes -= len(body)
        if self._left_bytes < 0:
            raise RuntimeError("Response content longer than Content-Length")
        if self._left_bytes and not more_body:
            raise RuntimeError("Response content shorter than Content-Length")
        if self._head:
            head, self._head = self._head, b""
            if len(body) <= MAX_JOINED_BYTES:
                body = b"".join((head, body))
            else:
                self.transport.write(head)
        if body:
            self.transport.write(body)
        if not more_body:
            self._end()

    def _end(self) -> None:
        self.response_complete = True
        self._pieces.clear()
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


@lru_cache(maxsize=256)
def _header_name(name: bytes) -> bytes:
    """Return the name in lower case, or raise for what is none."""
    if HEADER_RE.search(name):
        raise RuntimeError("Invalid HTTP header name.")
    return name.lower()
