"""Just enough HTTP between ASGI and the protocols: a body read within limits, answers that may be
several buffers, and the one table of status codes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from time import perf_counter
from typing import Final, TypeAlias
from urllib.parse import parse_qsl

from starlette.types import Message, Receive, Scope, Send

from rayserve_app import errors
from rayserve_app.codecs import json
from rayserve_app.errors import (
    InvalidRequest,
    Overloaded,
    RequestTooLarge,
    ServingError,
    UnsupportedContentType,
)
from rayserve_app.process.timing import Timing
from rayserve_app.settings.model import LimitSettings
from rayserve_app.types import Buffer
from rayserve_app.web import content_coding
from rayserve_app.web.body import Body
from rayserve_app.web.scope import CLIENT_HEADERS

STATUS: Final[Mapping[type[ServingError], int]] = {
    errors.InvalidRequest: 400,
    errors.UnsupportedContentType: 415,
    errors.NotAcceptable: 406,
    errors.RequestTooLarge: 413,
    errors.BodyTimeout: 408,
    errors.ModelNotFound: 404,
    errors.VersionNotFound: 404,
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
    errors.BackendError: 500,
    errors.ConfigurationError: 500,
}

FORWARDED: Final = "x-rayserve-forwarded"
"""The header of a request that a gateway has forwarded: the protocols that may answer, in order, or
nothing if the order is the model's."""

GATEWAYS: Final = "x-rayserve-gateways"
"""The header that names the gateways which a request has passed; nobody else is to know them."""

_OWN: Final = frozenset({FORWARDED.encode(), GATEWAYS.encode()})

MAX_QUERY_PAIRS: Final = 256

CHUNK_BYTES: Final = 1 << 19
"""Large answers are handed over in pieces of this size, so that the server's flow control works,
nothing copies a whole answer and no step of the event loop takes long."""

_FREED_BYTES: Final = 1 << 24
"""Larger answers are freed in a thread: the kernel takes 10 ms to get back a gigabyte."""

NO_CONTENT: Final = frozenset({204, 205, 304})
"""Statuses of answers without a body (RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5): a client takes
one for the beginning of the next answer."""

NO_LENGTH: Final = frozenset({204, 304})
"""Of these the length is not told either (section 8.6)."""

_SEND_BYTES: Final = 1 << 14
"""What it takes to hand over a piece of no length, in bytes that are sent meanwhile."""

_LONGEST_TOLD: Final = 200
"""Characters of a path that nobody has, to repeat."""

_LONGEST_COMPARED: Final = 48
"""Characters of what is compared: it takes as long as the square of them, in the event loop."""

_MOST_SUGGESTED: Final = 2

_PARAMETER: Final = re.compile(r"\{\w+\}")


class ClientDisconnected(Exception):
    """The client left; there is nobody to answer."""


def status_of(error: ServingError) -> int:
    """Return the status of an error: its own class's, or its nearest ancestor's."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def retry_headers(error: ServingError) -> dict[str, str]:
    """Return `Retry-After` for what may succeed later."""
    if isinstance(error, errors.Unavailable):
        return {"retry-after": str(error.retry_after_s)}
    return {}


class BodyBudget:
    """The bytes that the bodies of all requests of a replica may hold at one time."""

    def __init__(self, most_mb: float) -> None:
        self._most_mb = most_mb
        self._left = int(most_mb * 1e6)

    def take(self, count: int) -> None:
        """Reserve bytes, or raise Overloaded."""
        if count > self._left:
            raise Overloaded(f"The bodies of other requests fill {self._most_mb:g} MB")
        self._left -= count

    def give_back(self, count: int) -> None:
        self._left += count


class Request:
    """One HTTP request; its body is read once, within the model's limits."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        limits: LimitSettings,
        budget: BodyBudget | None = None,
    ) -> None:
        self.method: str = scope["method"]
        self.path: str = scope.get("path", "/")
        self.root_path: str = scope.get("root_path", "")
        """The model's prefix."""
        self.path_params: Mapping[str, str] = {}
        """What stands for `{name}` in the route's path."""
        self._query: bytes = scope.get("query_string", b"")
        self._lines: Sequence[tuple[bytes, bytes]] = scope.get(CLIENT_HEADERS) or scope["headers"]
        self._headers: dict[bytes, bytes] = dict(self._lines)
        self.limits = limits
        self.timing = Timing()
        self.started_at = self.progressed_at = perf_counter()
        """When the request began, and when a piece of its body last came."""
        self.received = 0
        """Bytes of its body that have come, and are held."""
        self.body_read = asyncio.Event()
        self._receive = receive
        self._budget = budget or BodyBudget(limits.max_buffered_mb)
        self._body: Buffer | None = None

    def header(self, name: str) -> str | None:
        """Return a header's value by its name in lower case; of a repeated one the last."""
        value = self._headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return all headers but our own, names in lower case; of a repeated one the last."""
        return tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in self._headers.items()
            if name not in _OWN
        )

    def list_header(self, name: str) -> str | None:
        """Return the value of a header that is a list: of repeated lines all, as RFC 9110, section
        5.3, joins them."""
        key = name.encode()
        if key not in self._headers:
            return None
        return b", ".join(value for each, value in self._lines if each == key).decode("latin-1")

    def query(self) -> list[tuple[str, str]]:
        """Return the pairs of the query string, decoded, in their order.

        Raises:
            InvalidRequest: more than MAX_QUERY_PAIRS.
        """
        text = self._query.decode("latin-1")
        try:
            return parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_QUERY_PAIRS)
        except ValueError as exc:
            raise InvalidRequest(f"The query string: {exc}") from exc

    @property
    def content_coding(self) -> str:
        """The body's `Content-Encoding`, in lower case; `identity` for none."""
        return content_coding.normalized(self.list_header("content-encoding"))

    async def body(self, codings: Collection[str] = ()) -> Buffer:
        """Read the whole body; a second call returns the same again.

        Args:
            codings: the content codings that the caller decodes itself, also one after another.

        Raises:
            RequestTooLarge: more bytes than `max_body_mb`; raised before the first byte is read if
                `Content-Length` says so.
            Overloaded: other requests' bodies fill the replica's `max_buffered_mb`.
            ClientDisconnected: the client left before the body's end.
            UnsupportedContentType: a content coding.
        """
        coding = self.content_coding
        if coding != "identity" and not {*coding.split(", ")} <= {*codings}:
            raise UnsupportedContentType(
                "Unsupported Content-Encoding",
                expected=" or ".join(("identity", *codings)),
                got=repr(coding),
            )
        if self._body is not None:
            return self._body
        most = int(self.limits.max_body_mb * 1e6)
        announced = self.header("content-length")
        length = int(announced) if announced is not None and announced.isdecimal() else None
        if length is not None and length > most:
            raise _too_large(most, f"{announced} bytes")
        message = await self._next()
        body: Buffer = message.get("body", b"")
        self._reserve(len(body))
        if message.get("more_body", False) or len(body) > most:
            body = await self._rest(message, Body(length), most)
        self.body_read.set()
        self._body = body
        return body

    def close(self) -> None:
        """Give back what the body held of the replica's budget."""
        self._budget.give_back(self.received)
        self.received = 0
        self._body = None

    def _reserve(self, count: int) -> None:
        """Hold the bytes that have come; what the body only announces costs nothing."""
        self._budget.take(count)
        self.received += count

    async def _rest(self, message: Message, body: Body, most: int) -> Buffer:
        while True:
            if self.received > most:
                raise _too_large(most, f"{self.received} bytes so far")
            body.append(message.get("body", b""))
            if not message.get("more_body", False):
                return await body.joined()
            message = await self._next()
            self._reserve(len(message.get("body", b"")))

    async def disconnected(self) -> None:
        """Return when the client has left; call it after the body."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        self.progressed_at = perf_counter()
        return message


def _too_large(most: int, got: str) -> RequestTooLarge:
    return RequestTooLarge("The body is too large", expected=f"at most {most} bytes", got=got)


class Response:
    """One HTTP answer of one or more buffers."""

    def __init__(
        self,
        body: Buffer | Sequence[Buffer] = b"",
        *,
        status: int = 200,
        media_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.buffers: Sequence[Buffer] = (
            [body] if isinstance(body, bytes | bytearray | memoryview) else body
        )
        self.headers = dict(headers or {})
        if media_type is not None:
            self.headers["content-type"] = media_type

    async def send(self, send: Send, *, takes_views: bool, with_body: bool = True) -> None:
        """Send the answer.

        Args:
            takes_views: whether the server writes a `memoryview` as it is. Serve's Python proxy
                pickles messages, which a view does not survive.
            with_body: false for HEAD.
        """
        if self.status in NO_CONTENT:
            self.buffers = [b""]
        length = sum(len(buffer) for buffer in self.buffers)
        headers = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in self.headers.items()]
        if self.status not in NO_LENGTH:
            headers.append((b"content-length", b"%d" % length))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        if not with_body:
            await send({"type": "http.response.body", "body": b""})
            return
        if len(self.buffers) == 1 and isinstance(self.buffers[0], bytes) and length <= CHUNK_BYTES:
            await send({"type": "http.response.body", "body": self.buffers[0]})
            return
        await self._send_pieces(send, takes_views)
        await send({"type": "http.response.body", "body": b""})
        if length > _FREED_BYTES:
            held, self.buffers = [*self.buffers], ()
            asyncio.get_running_loop().run_in_executor(None, held.clear)

    async def _send_pieces(self, send: Send, takes_views: bool) -> None:
        """Send piece by piece, and let others run after each of CHUNK_BYTES: a socket may take
        megabytes without a wait.

        Where the socket made us wait, others have run already, and a pause would only cost time.
        So a callback is planned before each piece, which tells afterwards whether the loop has come
        around.
        """
        loop = asyncio.get_running_loop()
        step_bytes = 0
        others_ran: list[bool] = []
        for buffer in self.buffers:
            view = memoryview(buffer)
            for start in range(0, len(view), CHUNK_BYTES):
                chunk: Buffer = view[start : start + CHUNK_BYTES]
                if step_bytes >= CHUNK_BYTES:
                    if not others_ran:
                        await asyncio.sleep(0)
                    step_bytes = 0
                if not step_bytes:
                    others_ran = []
                    loop.call_soon(others_ran.append, True)
                step_bytes += _SEND_BYTES + len(chunk)
                if not takes_views:
                    chunk = bytes(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def run_plain(
    answer: Callable[[Scope, Receive, Send], Awaitable[None]],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Run an ASGI app that answers requests, has nothing to do at its start and end, and takes no
    websockets."""
    if scope["type"] == "http":
        await answer(scope, receive, send)
    elif scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1003})
    else:
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})


def error_response(status: int, text: str) -> Response:
    """Return an error that belongs to no protocol."""
    return Response(json.encode({"error": text}), status=status, media_type="application/json")


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return the question that names what is nearest to what was given, "" if nothing is near."""
    by_lower_case = {each[:_LONGEST_COMPARED].lower(): each for each in known}
    start = given[:_LONGEST_COMPARED].lower()
    found = get_close_matches(start, by_lower_case, n=_MOST_SUGGESTED)
    nearest = " or ".join(repr(by_lower_case[each]) for each in found)
    return f"Did you mean {nearest}?" if nearest else ""


def no_such_path(path: str, known: Iterable[str]) -> Response:
    """Return the answer to a path that nobody claims, with those nearest to it.

    Args:
        known: paths, in which `{name}` stands for a part of one segment.
    """
    short = path[:_LONGEST_TOLD]
    filled = dict.fromkeys(_filled(each.rstrip("/") or "/", short) for each in known)
    question = did_you_mean(short, filled) or "All paths are in `openapi.json`."
    return error_response(404, f"No such path {short!r}. {question}")


def _filled(pattern: str, path: str) -> str:
    """Return a pattern with what stands in a path at the places of its parameters."""
    parts, given = pattern.split("/"), path.split("/")
    if "{" not in pattern or len(parts) != len(given):
        return pattern
    filled = zip(parts, (each.partition(":")[0] for each in given), strict=True)
    return "/".join(_PARAMETER.sub(own.replace("\\", ""), part) for part, own in filled)


def no_such_method(method: str, known: Iterable[str]) -> Response:
    """Return the answer to a method that a path does not have."""
    methods = ", ".join(sorted(known))
    response = error_response(405, f"No {method} here, only {methods}")
    response.headers["allow"] = methods
    return response


Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
