"""A client for large answers: a plain socket that reads into one buffer, over and over."""

from __future__ import annotations

import socket
from time import perf_counter, thread_time
from types import TracebackType
from typing import NamedTuple, Self

from rayserve_app.bench.connection import Answer
from rayserve_app.bench.load import Target

BUFFER_BYTES = 64 << 20
MAX_HEAD_BYTES = 16 << 10


class LargeAnswer(NamedTuple):
    """An answer that was read to its end; its body is gone with the next one."""

    answer: Answer
    seconds: float
    """From before the request was sent until the last byte was read."""
    reader_cpu_seconds: float
    """What this client computed meanwhile, nearly all of it the kernel's copy to its buffer."""


class LargeAnswerClient:
    """One kept connection. Blocks, with the GIL released: one thread per client."""

    def __init__(self, target: Target, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._request = target.request
        # Written once, so that no page of it is new when the clock runs.
        self._buffer = memoryview(bytearray(b"\1") * buffer_bytes)
        self._socket = socket.create_connection((target.host, target.port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self) -> LargeAnswer:
        """Send the request and read its answer."""
        started_at, cpu_before = perf_counter(), thread_time()
        self._socket.sendall(self._request)
        head, received = self._read_head()
        answer = Answer(int(head[9:12]), head, 0)
        length = int(answer.header("content-length"))
        receive(self._socket, self._buffer[: length - received])
        seconds, cpu_seconds = perf_counter() - started_at, thread_time() - cpu_before
        return LargeAnswer(answer._replace(body_bytes=length), seconds, cpu_seconds)

    def _read_head(self) -> tuple[bytes, int]:
        """Return the head, and how many bytes of the body came with it."""
        read = b""
        while b"\r\n\r\n" not in read:
            part = self._socket.recv(MAX_HEAD_BYTES)
            if not part or len(read) > MAX_HEAD_BYTES:
                raise ConnectionError(f"No answer, only {read[:200]!r}")
            read += part
        head, _, rest = read.partition(b"\r\n\r\n")
        return head, len(rest)


def receive(connection: socket.socket, buffer: memoryview) -> None:
    """Fill a buffer from a socket."""
    received = 0
    while received < len(buffer):
        count = connection.recv_into(buffer[received:])
        if not count:
            raise ConnectionError(f"{received} of {len(buffer)} bytes came")
        received += count


class Loopback:
    """A pair of connected TCP sockets, as a server and its client on this machine have them."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname())
            self.server, _ = listener.accept()

    def close(self) -> None:
        self.client.close()
        self.server.close()
