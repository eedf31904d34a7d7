"""A client for large answers: a plain socket that reads into one buffer, over and over."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from time import perf_counter, thread_time

from rayserve_app.bench.connection import find_header
from rayserve_app.bench.load import Load, Target

BUFFER_BYTES = 128 << 20
MAX_HEAD_BYTES = 16 << 10


class LargeAnswerClient:
    """One kept connection. Blocks, with the GIL released: one thread per client."""

    def __init__(self, target: Target, least_bytes: int, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._request = target.request
        self._least_bytes = least_bytes
        # Written once, so that no page of it is new when the clock runs.
        self._buffer = memoryview(bytearray(b"\1") * buffer_bytes)
        self._socket = socket.create_connection((target.host, target.port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._socket.close()

    def send(self) -> str:
        """Send the request and read its answer to the end; return its `Server-Timing`.

        Raises:
            ConnectionError: it is not 200, or shorter than expected, or there is none.
        """
        self._socket.sendall(self._request)
        head = b""
        while b"\r\n\r\n" not in head:
            part = self._socket.recv(MAX_HEAD_BYTES)
            if not part or len(head) > MAX_HEAD_BYTES:
                raise ConnectionError(f"No answer, only {head[:200]!r}")
            head += part
        head, _, body = head.partition(b"\r\n\r\n")
        length = int(find_header(head, b"content-length"))
        if int(head[9:12]) != 200 or length < self._least_bytes:
            raise ConnectionError(f"Expected {self._least_bytes} bytes, got {head!r}")
        receive(self._socket, self._buffer[: length - len(body)])
        return find_header(head, b"server-timing").decode("latin-1")


def receive(connection: socket.socket, buffer: memoryview) -> None:
    """Fill a buffer from a socket."""
    received = 0
    while received < len(buffer):
        count = connection.recv_into(buffer[received:])
        if not count:
            raise ConnectionError(f"{received} of {len(buffer)} bytes came")
        received += count


def repeat(send: Callable[[], str], seconds: float, least: int = 1) -> Load:
    """Send one request after another for some seconds, at least so many, after one that does not
    count; each returns its `Server-Timing`."""
    send()
    latencies: list[float] = []
    timings: list[str] = []
    started_at, cpu_before = perf_counter(), thread_time()
    while len(latencies) < least or perf_counter() < started_at + seconds:
        sent_at = perf_counter()
        timings.append(send())
        latencies.append(perf_counter() - sent_at)
    return Load(latencies, 0, 0, perf_counter() - started_at, thread_time() - cpu_before, timings)


def turns(
    send: Callable[[], str], seconds: float, least: int = 1
) -> Callable[[int], Awaitable[Load]]:
    """Return what repeats it in a thread, for `take_turns`."""
    return lambda _: asyncio.to_thread(repeat, send, seconds, least)
