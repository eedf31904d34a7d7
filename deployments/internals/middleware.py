"""What stands between a replica's HTTP server and Serve: it keeps from Serve what costs time or
gives clients a say."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from rayserve_app.web.scope import CLIENT_HEADERS, REQUEST_ID

SERVE_HEADERS: Final = frozenset({REQUEST_ID, b"traceparent", b"tracestate"})
"""What Serve may see of a request's headers. It decodes each of them several times, and lets
clients lift its time-outs by `x-request-timeout-seconds`."""

UNWATCHED: Final = (b"x-request-disconnect-disabled", b"?1")
"""Serve then makes no two tasks and a queue per request to watch for its client to leave, and reads
no body ahead of our limits; `App` watches itself."""


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
        await self._app(scope, receive, send)
