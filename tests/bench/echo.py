"""The least HTTP server there is, in a process of its own: how fast the load generator is alone.

It reads a request by its Content-Length and answers the same few bytes, at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from sys import executable
from typing import cast

from rayserve_app.operations.server import processes

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n[512,512]"


class Echo(asyncio.Protocol):
    """One connection with one request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._head = b""
        self._missing = 0

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        else:
            self._head += data
            head, separator, rest = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            self._head = b""
            length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            self._missing = int(length) - len(rest)
        if not self._missing:
            self._transport.write(ANSWER)


@contextmanager
def echo_server() -> Iterator[str]:
    """Run the server as a child; its address is `http://127.0.0.1:<port>`."""
    child, lines = processes.start([executable, "-m", __name__], os.environ)
    try:
        yield lines.readline().strip()
    finally:
        child.kill()
        child.wait()
        lines.close()


async def serve() -> None:
    """Print the address and serve until killed."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
