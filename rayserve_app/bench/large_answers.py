"""A client for large answers: a plain socket that reads into one buffer, over and over."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from time import perf_counter, thread_time

from rayserve_app.bench.connection import Answer
from rayserve_app.bench.load import Load, Target

BUFFER_BYTES = 128 << 20
MAX_HEAD_BYTES = 16 << 10


class LargeAnswerClient:
    """One kept connection. Blocks, with the GIL released: one thread per client."""

    def __init__(self, target: Target, least_bytes: int, buffer_bytes: int = BUFFER_BYTES) -> None:
        """Connect.

        Args:
            least_bytes: an answer of fewer, or not 200, counts as an error.
        """
        self._request = target.request
        self._least_bytes = least_bytes
        # Written once, so that no page of it is new when the clock runs.
        self._buffer = memoryview(bytearray(b"\1") * buffer_bytes)
        self._socket = socket.create_connection((target.host, target.port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._socket.close()

    def turns(self, seconds: float, least: int = 1) -> Callable[[int], Awaitable[Load]]:
        """Return what sends one request after another for some seconds, at least so many, after
        one that does not count."""
        return lambda _: asyncio.to_thread(self.measure, seconds, least)

    def measure(self, seconds: float, least: int = 1) -> Load:
        self.send()
        latencies: list[float] = []
        timings: list[str] = []
        errors = 0
        started_at, cpu_before = perf_counter(), thread_time()
        while len(latencies) + errors < least or perf_counter() < started_at + seconds:
            sent_at = perf_counter()
            answer = self.send()
            if answer.status != 200 or answer.body_bytes < self._least_bytes:
                errors += 1
                continue
            latencies.append(perf_counter() - sent_at)
            timings.append(answer.header("server-timing"))
        spent, cpu = perf_counter() - started_at, thread_time() - cpu_before
        return Load(latencies, errors, 0, spent, cpu, timings)

    def send(self) -> Answer:
        """Send the request and read its answer to the end."""
        self._socket.sendall(self._request)
        head = b""
        while b"\r\n\r\n" not in head:
            part = self._socket.recv(MAX_HEAD_BYTES)
            if not part or len(head) > MAX_HEAD_BYTES:
                raise ConnectionError(f"No answer, only {head[:200]!r}")
            head += part
        head, _, body = head.partition(b"\r\n\r\n")
        answer = Answer(int(head[9:12]), head, 0)
        length = int(answer.header("content-length"))
        receive(self._socket, self._buffer[: length - len(body)])
        return answer._replace(body_bytes=length)


def receive(connection: socket.socket, buffer: memoryview) -> None:
    """Fill a buffer from a socket."""
    received = 0
    while received < len(buffer):
        count = connection.recv_into(buffer[received:])
        if not count:
            raise ConnectionError(f"{received} of {len(buffer)} bytes came")
        received += count
