"""A model behind a real uvicorn, for clients that want a URL."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from rayserve_app.asgi import create_app
from rayserve_app.model import Model


def mount(app: ASGIApp, prefix: str) -> ASGIApp:
    """Return the app under a prefix, as Serve mounts it."""

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "root_path": prefix}, receive, send)

    return mounted


@contextmanager
def serving(model: Model) -> Iterator[str]:
    """Serve a model on a free port; yield the URL where its paths begin."""
    config = uvicorn.Config(
        mount(create_app(model), f"/{model.name}"), port=0, log_level="warning", lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/{model.name}"
    finally:
        server.should_exit = True
        thread.join()
        model.close()
