"""A load generator: HTTP/1.1 over kept connections, closed loop and open loop.

It writes prepared bytes and reads just enough of an answer to know where it ends, so one process
drives several times what a Serve instance on the same cores answers (bench/echo.py shows it).
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping
from time import perf_counter, process_time
from typing import NamedTuple, cast


class Target(NamedTuple):
    """One request, over and over: where it goes and its bytes."""

    host: str
    port: int
    request: bytes

    @classmethod
    def post(
        cls,
        url: str,
        body: bytes,
        content_type: str,
        *,
        accept: str = "*/*",
        headers: Mapping[str, str] | None = None,
    ) -> Target:
        """Prepare a POST to a URL `http://host:port/path`; `headers` come beside the usual ones."""
        authority, _, path = url.removeprefix("http://").partition("/")
        host, _, port = authority.partition(":")
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = (
            f"POST /{path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: {content_type}\r\n"
            f"Accept: {accept}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
        )
        return cls(host, int(port), head.encode() + body)


class Answer(NamedTuple):
    """What came back: the head is kept for its headers, of the body only the length."""

    status: int
    head: bytes
    body_bytes: int

    def header(self, name: str) -> str:
        """Return a header's value, empty if absent."""
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.strip().lower() == name.lower():
                return value.strip()
        return ""


class Load(NamedTuple):
    """The outcome of one run; latencies in seconds, of good answers only."""

    latencies: list[float]
    errors: int
    unanswered: int
    """Requests that had no answer when the run was over."""
    seconds: float
    """From the first request to the last answer, or to the end of waiting for it."""
    generator_cpu_seconds: float
    """What the load generator itself computed."""

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return len(self.latencies) / self.seconds

    @property
    def generator_cpu(self) -> float:
        """The share of one core that the load generator took; near 1 it measures itself."""
        return self.generator_cpu_seconds / self.seconds

    def percentile(self, percent: float) -> float:
        """Return a latency percentile in seconds, by nearest rank; infinite without an answer."""
        if not self.latencies:
            return float("inf")
        rank = math.ceil(len(self.latencies) * percent / 100)
        return sorted(self.latencies)[max(0, rank - 1)]


class Connection(asyncio.Protocol):
    """One kept connection with one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._head = b""
        self._expected = -1
        self._received = 0

    @classmethod
    async def open(cls, target: Target) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, target.host, target.port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    async def send(self, request: bytes) -> Answer:
        """Send one request and wait for the end of its answer."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the server closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._head, self._expected, self._received = b"", -1, 0
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        if self._expected < 0:
            self._head += data
            head, separator, rest = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            self._head = head
            self._expected = _content_length(head)
            self._received = len(rest)
        else:
            self._received += len(data)
        if self._received >= self._expected and self._answer and not self._answer.done():
            status = int(self._head[9:12])
            self._answer.set_result(Answer(status, self._head, self._received))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server closed the connection"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.lower() == b"content-length":
            return int(value)
    raise ValueError(f"An answer without Content-Length: {head[:200]!r}")


async def send_once(target: Target) -> Answer:
    """Send the request once on a connection of its own."""
    connection = await Connection.open(target)
    try:
        return await connection.send(target.request)
    finally:
        connection.close()


async def closed_loop(target: Target, *, connections: int, seconds: float) -> Load:
    """Let each connection send its next request when its last one is answered."""
    opened = [await Connection.open(target) for _ in range(connections)]
    latencies: list[float] = []
    errors = 0
    started_at, cpu_before = perf_counter(), process_time()
    stop_at = started_at + seconds

    async def drive(connection: Connection) -> None:
        nonlocal errors
        while (sent_at := perf_counter()) < stop_at:
            try:
                answer = await connection.send(target.request)
            except ConnectionError:
                errors += 1
                connection = await Connection.open(target)
                continue
            if answer.status == 200:
                latencies.append(perf_counter() - sent_at)
            else:
                errors += 1
        connection.close()

    await asyncio.gather(*map(drive, opened))
    return Load(latencies, errors, 0, perf_counter() - started_at, process_time() - cpu_before)


async def open_loop(
    target: Target,
    *,
    rate: float,
    seconds: float,
    poisson: bool = True,
    seed: int = 0,
    most: int = 512,
    grace_s: float = 2.0,
) -> Load:
    """Send at a given rate whatever comes back; latency counts from the intended time, so that a
    server that stalls cannot hide it.

    Args:
        rate: requests per second, at random times if `poisson`, else evenly spaced.
        seed: of the random times; the same seed, the same times.
        most: connections at most; a request that finds none free waits, and its clock runs.
        grace_s: how long to wait for answers after `seconds`.
    """
    latencies: list[float] = []
    errors = 0
    free: asyncio.LifoQueue[Connection | None] = asyncio.LifoQueue()
    for _ in range(most):
        free.put_nowait(None)
    started_at, cpu_before = perf_counter(), process_time()

    async def drive(intended_at: float) -> None:
        nonlocal errors
        connection = await free.get()
        try:
            connection = connection or await Connection.open(target)
            answer = await connection.send(target.request)
            if answer.status == 200:
                latencies.append(perf_counter() - intended_at)
            else:
                errors += 1
        except ConnectionError:
            errors += 1
            connection = None
        except asyncio.CancelledError:
            # Its answer may still come: nobody else may read it as theirs.
            if connection is not None:
                connection.close()
            connection = None
            raise
        finally:
            free.put_nowait(connection)

    tasks = []
    for offset in arrivals(rate, seconds, seed=seed if poisson else None):
        intended_at = started_at + offset
        await asyncio.sleep(max(0.0, intended_at - perf_counter()))
        tasks.append(asyncio.create_task(drive(intended_at)))
    end_at = started_at + seconds + grace_s
    _, pending = await asyncio.wait(tasks, timeout=end_at - perf_counter())
    elapsed, cpu_seconds = perf_counter() - started_at, process_time() - cpu_before
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    while not free.empty():
        if connection := free.get_nowait():
            connection.close()
    return Load(latencies, errors, len(pending), max(seconds, elapsed), cpu_seconds)


def arrivals(rate: float, seconds: float, *, seed: int | None) -> list[float]:
    """Return when requests are due, in seconds from the start: exactly `rate * seconds` of them.

    A Poisson process of which the number of arrivals is known is that many uniform times, sorted
    (S. Ross, Introduction to Probability Models, theorem 5.2); without a seed, even spacing.
    """
    count = round(rate * seconds)
    if seed is None:
        return [index / rate for index in range(count)]
    source = random.Random(seed)
    return sorted(source.uniform(0, seconds) for _ in range(count))
