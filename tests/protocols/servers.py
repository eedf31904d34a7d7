"""A model behind a real uvicorn, for clients that want a URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from rayserve_app.asgi import create_app
from rayserve_app.model import Model
from tests.servers import serving as serving_app


def mount(app: ASGIApp, prefix: str) -> ASGIApp:
    """Return the app under a prefix, as Serve mounts it."""

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "root_path": prefix}, receive, send)

    return mounted


@contextmanager
def serving(model: Model) -> Iterator[str]:
    """Serve a model on a free port; yield the URL where its paths begin."""
    try:
        with serving_app(mount(create_app(model), f"/{model.name}")) as port:
            yield f"http://127.0.0.1:{port}/{model.name}"
    finally:
        model.close()
