"""The ASGI app of one model: its protocols' routes, its metadata, and errors in their bodies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, TypeAlias

from starlette.types import Receive, Scope, Send

from rayserve_app.codecs import json
from rayserve_app.errors import BackendError, ServingError
from rayserve_app.http import BodyBudget, ClientDisconnected, Handler, Request, Response
from rayserve_app.importing import import_from_string
from rayserve_app.model import Model
from rayserve_app.protocols import PROTOCOLS
from rayserve_app.protocols.protocol import Protocol, Route
from rayserve_app.watch import watched

logger = logging.getLogger(__name__)

_JSON = "application/json"

Endpoint: TypeAlias = tuple[Handler, Protocol | None]


def create_app(model: Model, *, takes_views: Callable[[Scope], bool] = lambda _: False) -> App:
    """Return the ASGI app of a model.

    Args:
        takes_views: whether the server that took this connection writes a `memoryview` body as it
            is; if in doubt, not.
    """
    protocols = [import_from_string(PROTOCOLS[name])(model) for name in model.settings.protocols]
    return App(model, protocols, takes_views)


class App:
    """Routes requests by exact path below the model's prefix, with or without a final slash at the
    prefix itself."""

    def __init__(
        self, model: Model, protocols: list[Protocol], takes_views: Callable[[Scope], bool]
    ) -> None:
        self._model = model
        self._takes_views = takes_views
        self._budget = BodyBudget(model.settings.limits)
        self._routes: dict[str, dict[str, Endpoint]] = {}
        for path in ("", "/"):
            self._add(Route("GET", path, self._describe), None)
        for protocol in protocols:
            for route in protocol.routes():
                self._add(route, protocol)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
        else:
            await self._answer(scope, receive, send)

    def _add(self, route: Route, protocol: Protocol | None) -> None:
        self._routes.setdefault(route.path, {})[route.method] = (route.handler, protocol)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        verbs = self._routes.get(path)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        protocol: Protocol | None = None
        request = Request(scope, receive, self._model.settings.limits, self._budget)
        if verbs is None:
            response = _no_such_path(path, sorted(self._routes))
        elif method not in verbs:
            response = _no_such_verb(scope["method"], verbs)
        else:
            handler, protocol = verbs[method]
            try:
                response = await watched(handler, request)
            except ClientDisconnected:
                return
            except ServingError as exc:
                response = self._render_error(exc, protocol)
            except Exception:
                logger.exception("Model %r: %s failed", self._model.name, path)
                error = BackendError("Internal error; the replica's log has the details")
                response = self._render_error(error, protocol)
            finally:
                request.close()
        self._record(request, response, protocol)
        await response.send(
            send,
            takes_views=self._takes_views(scope),
            with_body=scope["method"] != "HEAD",
        )

    def _record(self, request: Request, response: Response, protocol: Protocol | None) -> None:
        recorder = self._model.recorder
        recorder.responses[protocol.name if protocol else "", response.status] += 1
        timing = request.timing
        if timing.predicted_at:
            timing.encode = perf_counter() - timing.predicted_at
            timing.record(recorder)
            response.headers["server-timing"] = timing.header()

    def _render_error(self, error: ServingError, protocol: Protocol | None) -> Response:
        if protocol is None:
            return Response(json.encode({"error": str(error)}), status=500, media_type=_JSON)
        return protocol.render_error(error)

    async def _describe(self, _: Request) -> Response:
        return Response(json.encode(self._model.describe()), media_type=_JSON)


def _no_such_path(path: str, known: list[str]) -> Response:
    error = f"No such path {path!r}; this model answers {', '.join(filter(None, known))}"
    return Response(json.encode({"error": error}), status=404, media_type=_JSON)


def _no_such_verb(method: str, verbs: Mapping[str, Any]) -> Response:
    known = ", ".join(sorted(verbs))
    return Response(
        json.encode({"error": f"No {method} here, only {known}"}),
        status=405,
        media_type=_JSON,
        headers={"allow": known},
    )


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
