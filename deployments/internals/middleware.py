"""What stands between the HTTP server of a replica, or of Serve's proxy, and Serve's own app.

`http_middlewares` is what Serve calls for it, by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH. It uses
public names only; what knows private ones is imported when it is needed.
"""

from __future__ import annotations

from typing import ClassVar, Final

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.internals.versions import check_versions, warn
from rayserve_app.web.scope import CLIENT_HEADERS, REQUEST_ID

SERVE_HEADERS: Final = frozenset({REQUEST_ID, b"traceparent", b"tracestate"})
"""What Serve may see of a request's headers. It decodes each of them several times, and lets
clients lift its time-outs by `x-request-timeout-seconds`."""

UNWATCHED: Final = (b"x-request-disconnect-disabled", b"?1")
"""Serve then makes no two tasks and a queue per request to watch for its client to leave, and reads
no body ahead of our limits; `App` watches itself."""


class IngressDeployment:
    """A deployment whose replicas answer HTTP themselves, past Serve or behind `Ingress`."""

    app: ClassVar[ASGIApp | None] = None
    """What answers in this process, if it is a replica of such a deployment."""


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


def is_own_server(scope: Scope) -> bool:
    """Return whether the replica's own HTTP server took the connection, not Serve's Python proxy.

    The proxy pickles messages between processes. Of the replica's own connections each request is
    marked, by the shorter way past Serve or by `Ingress` on the way through it.
    """
    return CLIENT_HEADERS in scope


def http_middlewares() -> list[Middleware]:
    """Return what stands before the HTTP server of a replica, or of one of Serve's proxies.

    Serve calls it in the replicas of other applications too, where what is for its proxies finds no
    model.
    """
    _hold_to_loopback()
    own = IngressDeployment.app
    if own is None:
        # Here, for a model's replica needs neither.
        from deployments.internals.served_models import ModelsByPath
        from rayserve_app.gateway.deadlines import Deadlines

        return [Middleware(Deadlines, find=ModelsByPath().find)]
    _take_the_short_way(own)
    return [Middleware(Ingress)]


def _take_the_short_way(own: ASGIApp) -> None:
    """Let requests go past Serve to the replica's own app, if that is known to work."""
    try:
        check_versions()
        from deployments.internals.accounts import find_accounts
        from deployments.internals.connection import use_connections

        use_connections(own, find_accounts)
    except Exception as error:
        warn(error)


def _hold_to_loopback() -> None:
    """Hold Serve's gRPC servers to loopback where Ray is there, whatever the versions: what is
    wrapped around two functions of Serve's changes nothing but an address."""
    try:
        from deployments.internals.sockets import hold_to_loopback

        hold_to_loopback()
    except Exception as error:
        warn(f"{error}; Serve's gRPC servers listen on all interfaces")
