"""What stands before Serve's own proxy, where requests wait while a model has no replica: the
model's deadline holds there too, and who waits in vain is told so in the protocol's own form."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import lru_cache
from typing import Final, TypeAlias

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayserve_app.errors import ModelNotReady, ServingError
from rayserve_app.gateway.replicas import ServedModel
from rayserve_app.gateway.request_head import LATE_S
from rayserve_app.gateway.routes import Destination, create_router, those_meant
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.web.messages import Response, error_response, retry_headers, status_of
from rayserve_app.web.routing import Router

LOOK_AFTER_S: Final = 0.05
"""Most answers come sooner, and nobody needs to know whose they are."""

LOOK_AGAIN_S: Final = 1.0

Find: TypeAlias = Callable[[str], Awaitable[ServedModel | None]]
"""Returns the model below whose prefix a path lies; None if there is none, or it is not known yet.
"""


class Deadlines:
    """ASGI middleware that ends requests to models when their deadline has passed."""

    def __init__(self, app: ASGIApp, find: Find) -> None:
        self._app = app
        self._find = find

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Wait(self._app, self._find, send).run(scope, receive)
        else:
            await self._app(scope, receive, send)


class _Wait:
    """One request."""

    def __init__(self, app: ASGIApp, find: Find, send: Send) -> None:
        self._app = app
        self._find = find
        self._send = send
        self._has_begun = False
        """Whether an answer has."""
        self._whole_at: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        """By the loop's clock, when all of the body had come: the deadline counts from then."""

    async def run(self, scope: Scope, receive: Receive) -> None:
        async def receive_watching() -> Message:
            message = await receive()
            if not message.get("more_body", False) and not self._whole_at.done():
                self._whole_at.set_result(loop.time())
            return message

        async def send_watching(message: Message) -> None:
            if not limit.expired():
                self._has_begun = True
                await self._send(message)

        model: list[ServedModel] = []
        limit = asyncio.timeout(None)
        loop = asyncio.get_running_loop()
        watching: list[asyncio.Task[None]] = []
        timer = loop.call_later(
            LOOK_AFTER_S,
            lambda: watching.append(loop.create_task(self._watch(scope["path"], limit, model))),
        )
        try:
            async with limit:
                await self._app(scope, receive_watching, send_watching)
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            timer.cancel()
            for task in watching:
                task.cancel()
        if limit.expired():
            await _refusal(model[0], scope).send(self._send, takes_views=False)

    async def _watch(self, path: str, limit: asyncio.Timeout, found: list[ServedModel]) -> None:
        """Set the time at which the request ends, unless its answer begins before."""
        while (model := await self._find(path)) is None:
            await asyncio.sleep(LOOK_AGAIN_S)
        found.append(model)
        ends_at = await self._whole_at + model.deadline_s + LATE_S
        await asyncio.sleep(ends_at - asyncio.get_running_loop().time())
        if not self._has_begun:
            limit.reschedule(0)


def model_at_gateway(
    path: str, settings: GatewaySettings, models: Collection[ServedModel]
) -> ServedModel:
    """Return the model that a gateway's path names, or its protocol's default; where it means no
    single one, the one that takes longest.

    Args:
        path: below the gateway's prefix.
        models: at least one.
    """
    by_name = {model.name: model for model in models}
    for claimants in _router(settings.protocols).find(path or "/").values():
        for destination, params in claimants:
            name = params.get("model") or settings.default_for(destination.protocol.name)
            if name in by_name:
                return by_name[name]
    return max(models, key=lambda model: model.deadline_s)


def _refusal(model: ServedModel, scope: Scope) -> Response:
    """Return the error in the words of the protocol whose path it is."""
    error: ServingError = ModelNotReady(f"Model {model.name!r} has no replica at the moment")
    path = scope["path"].removeprefix(model.prefix) or "/"
    claims = _router(model.protocols).find(path)
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    claimants = those_meant(
        claims.get(method) or next(iter(claims.values()), []), dict(scope["headers"])
    )
    if not claimants:
        response = error_response(status_of(error), str(error))
        response.headers |= retry_headers(error)
        return response
    return claimants[0][0].protocol.render_error(error)


@lru_cache(maxsize=64)
def _router(protocols: tuple[str, ...]) -> Router[Destination]:
    return create_router(GatewaySettings(protocols=protocols) if protocols else GatewaySettings())
