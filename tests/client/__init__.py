"""What the tests of the clients share: both behind one blocking face, and servers to speak to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

from starlette.types import ASGIApp, Receive, Scope, Send

from rayserve_app.app import create_app
from rayserve_app.client import AsyncClient, Client
from rayserve_app.inference.model import Model
from tests.protocols.servers import mount
from tests.servers import serving


class BlockingAsyncClient:
    """An AsyncClient whose every call runs to its end, in an event loop of its own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(*args, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *args, **options: self._runner.run(method(*args, **options))

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


AnyClient: TypeAlias = Client | BlockingAsyncClient

Connect: TypeAlias = Callable[..., AnyClient]


class Seen(NamedTuple):
    """A request as the server saw it."""

    method: str
    path: str
    headers: dict[str, str]


class Watched:
    """An ASGI app that remembers the heads of its requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.requests: list[Seen] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.requests.append(Seen(scope["method"], scope["path"], headers))
        await self._app(scope, receive, send)

    @property
    def predictions(self) -> list[Seen]:
        return [each for each in self.requests if each.method == "POST"]


class Served(NamedTuple):
    """A model behind a real server."""

    url: str
    watched: Watched


@contextmanager
def served(model: Model) -> Iterator[Served]:
    """Serve a model under its name on a free port."""
    watched = Watched(mount(create_app(model), f"/{model.name}"))
    try:
        with serving(watched) as port:
            yield Served(f"http://127.0.0.1:{port}/{model.name}", watched)
    finally:
        model.close()
