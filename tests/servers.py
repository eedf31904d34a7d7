"""Real HTTP servers on free ports of this machine, for as long as a test needs them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rayserve_app.bench.served import serving as serving


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
