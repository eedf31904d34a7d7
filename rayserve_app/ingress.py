"""What stands between a replica's HTTP server and Serve: it keeps from Serve what costs time or
gives clients a say, and from the network half of the packets."""

from __future__ import annotations

from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from rayserve_app.types import Buffer

CLIENT_HEADERS: Final = "rayserve_app.client_headers"
"""The key in the ASGI scope under which the app finds all headers of a request."""

SERVE_HEADERS: Final = frozenset({b"x-request-id", b"traceparent", b"tracestate"})
"""What Serve may see of a request's headers. It decodes each of them several times, and lets
clients lift its time-outs by `x-request-timeout-seconds`."""

UNWATCHED: Final = (b"x-request-disconnect-disabled", b"?1")
"""Serve then makes no two tasks and a queue per request to watch for its client to leave, and reads
no body ahead of our limits; `App` watches itself."""

MAX_JOINED_BYTES: Final = 1 << 16


class Ingress:
    """ASGI middleware around Serve's own app in a replica of a model."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope[CLIENT_HEADERS] = scope["headers"]
            shown = [header for header in scope["headers"] if header[0] in SERVE_HEADERS]
            shown.append(UNWATCHED)
            scope["headers"] = shown
            # uvicorn writes no body for HEAD: its head would wait for ever.
            if scope["method"] != "HEAD":
                _join_writes(send)
        await self._app(scope, receive, send)


class JoinedWrites:
    """A transport that writes the head of an answer together with the first piece of its body.

    uvicorn writes each as it comes, without delay, which is two packets and two system calls here
    and in every proxy on the way.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head: Buffer | None = b""

    def write(self, data: Buffer) -> None:
        if self._head is None:
            self._transport.write(data)
        elif not self._head:
            self._head = data
        elif len(data) <= MAX_JOINED_BYTES:
            head, self._head = self._head, None
            self._transport.write(b"".join((head, data)))
        else:
            self.flush()
            self._transport.write(data)

    def flush(self) -> None:
        """Write what is held back; nothing is from now on."""
        head, self._head = self._head, None
        if head:
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        # Whatever else is asked of the transport, closing it above all, comes after the head.
        self.flush()
        return getattr(self._transport, name)


def _join_writes(send: Send) -> None:
    """Let the request's answer go through JoinedWrites, where the server is uvicorn, whose `send`
    belongs to an object that holds the transport; elsewhere it stays as it is."""
    cycle = getattr(send, "__self__", None)
    transport = getattr(cycle, "transport", None)
    if cycle is not None and transport is not None:
        cycle.transport = JoinedWrites(transport)
