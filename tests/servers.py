"""Real HTTP servers on free ports of this machine, for as long as a test needs them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn


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


@contextmanager
def raw_server(*answers: bytes, after_bytes: int = 1) -> Iterator[tuple[int, list[bytes]]]:
    """Answer connections with these bytes, one after the other, as soon as each has sent so much,
    and close each; yield the port and what they have sent. No more are accepted then."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]

        def run() -> None:
            for answer in answers:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    data = connection.recv(1 << 20)
                    while len(data) < after_bytes and (more := connection.recv(1 << 20)):
                        data += more
                    received.append(data)
                    connection.sendall(answer)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield port, received
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
