"""ASGI apps behind a real uvicorn in a thread of this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send


def mount(app: ASGIApp, prefix: str) -> ASGIApp:
    """Return the app under a prefix, as Serve mounts it."""

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "root_path": prefix}, receive, send)

    return mounted


@contextmanager
def serving(
    app: Any, *, keep_alive_s: int = 5, loop: str = "auto", http: Any = "auto"
) -> Iterator[int]:
    """Serve an ASGI app from a thread, in uvicorn's loop of that name and with what makes its
    connections; yield the port."""
    config = uvicorn.Config(
        app,
        loop=loop,
        http=http,
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        timeout_keep_alive=keep_alive_s,
    )
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield port
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)
