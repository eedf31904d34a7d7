"""A load generator: HTTP/1.1 over kept connections, closed loop and open loop.

It writes prepared bytes and reads just enough of an answer to know where it ends, so one process
drives several times what a Serve instance on the same cores answers.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from statistics import median
from time import perf_counter, process_time
from typing import Final, NamedTuple, TypeAlias

from rayserve_app.bench.connection import Answer, Connection, find_header

TIMEOUT_S: Final = 30.0
PERCENTILES: Final = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99}
LEAST_FOR_P999: Final = 1000
"""Of fewer requests the 99.9th percentile is the slowest one, which chance picks."""

REFUSED: Final = (429, 503)
"""The statuses of a server that has too much to do."""

MOST_TIMINGS: Final = 500
WARM_UP_S: Final = 0.5

_STAGE: Final = re.compile(r'([^\s,;"]+)\s*;\s*dur\s*=\s*([\d.]+)')
"""Of `Server-Timing` (W3C Server Timing, section 3): predict;dur=50.1;desc="8 items"."""


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


Requests: TypeAlias = Target | Sequence[Target]
"""One request, or some to one server that are sent in turn."""


@dataclass(frozen=True)
class Load:
    """The outcome of one run; latencies in seconds, of good answers only."""

    latencies: Sequence[float]
    """In the order of the answers."""
    errors: int
    unanswered: int
    """Requests that had no answer when the run was over."""
    seconds: float
    """From the first request to the last answer, or to the end of waiting for it."""
    generator_cpu_seconds: float
    """What the load generator itself computed."""
    timings: Sequence[str] = ()
    """The good answers' `Server-Timing`, `MOST_TIMINGS` of them, evenly picked."""
    lateness: Sequence[float] = ()
    """Open loop: by how many seconds each request's task started after its intended time. It is
    part of its latency, and what the load generator's own stalls put into that."""
    refusals: Sequence[float] = ()
    """How long each answer of `REFUSED` took, once it was sent; they are among the errors."""

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return len(self.latencies) / self.seconds

    @property
    def generator_cpu(self) -> float:
        """The share of one core that the load generator took; near 1 it measures itself."""
        return self.generator_cpu_seconds / self.seconds

    def percentile(self, percent: float) -> float:
        """Return a latency percentile in seconds, by nearest rank; what had no good answer took
        for ever."""
        return percentile(self._sorted, percent)

    def percentiles(self) -> dict[str, float]:
        """Return the percentiles that a report says, in milliseconds; that of 99.9 where there are
        `LEAST_FOR_P999` requests."""
        more = {"p999_ms": 99.9} if len(self._sorted) >= LEAST_FOR_P999 else {}
        return {
            name: self.percentile(percent) * 1e3
            for name, percent in {**PERCENTILES, **more}.items()
        }

    @cached_property
    def stages(self) -> dict[str, float]:
        """The median of each stage of `Server-Timing`, in milliseconds."""
        times: dict[str, list[float]] = {}
        for value in self.timings:
            for name, milliseconds in _STAGE.findall(value):
                times.setdefault(name, []).append(float(milliseconds))
        return {name: median(of_one) for name, of_one in times.items()}

    @property
    def late_p99_ms(self) -> float:
        """The 99th percentile of `lateness`, in milliseconds; 0 for a closed loop."""
        return percentile(sorted(self.lateness), 99) * 1e3 if self.lateness else 0.0

    @cached_property
    def _sorted(self) -> list[float]:
        return sorted(self.latencies) + [math.inf] * (self.errors + self.unanswered)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile of sorted values, by nearest rank; infinite without any."""
    if not ordered:
        return math.inf
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


class _Run:
    """What a run counts while the clock runs; of the answers only the heads are kept, to be read
    when it is over."""

    def __init__(self, requests: Requests) -> None:
        several = [requests] if isinstance(requests, Target) else requests
        addresses = {(target.host, target.port) for target in several}
        if len(addresses) != 1:
            raise ValueError(f"Expected targets of one server, got {sorted(addresses)}")
        (self._address,) = addresses
        self.next: Callable[[], bytes] = cycle([target.request for target in several]).__next__
        self.latencies: list[float] = []
        self.lateness: list[float] = []
        self.refusals: list[float] = []
        self.errors = 0
        self._heads: list[bytes] = []

    async def connect(self) -> Connection:
        return await Connection.open(*self._address)

    def start(self) -> float:
        """Start the clock; return when."""
        self.started_at, self._cpu_before = perf_counter(), process_time()
        return self.started_at

    def count(self, answer: Answer, since: float, sent_at: float) -> None:
        """Count an answer to a request that was due at `since`."""
        if answer.status == 200:
            self.latencies.append(perf_counter() - since)
            self._heads.append(answer.head)
            return
        if answer.status in REFUSED:
            self.refusals.append(perf_counter() - sent_at)
        self.errors += 1

    def end(self, unanswered: int = 0, least_s: float = 0.0) -> Load:
        """Stop the clock, and read the heads."""
        seconds = max(least_s, perf_counter() - self.started_at)
        cpu_seconds = process_time() - self._cpu_before
        step = math.ceil(len(self._heads) / MOST_TIMINGS) or 1
        values = (find_header(head, b"server-timing") for head in self._heads[::step])
        timings = [value.decode("latin-1") for value in values if value]
        counts = (self.errors, unanswered, seconds, cpu_seconds)
        return Load(self.latencies, *counts, timings, self.lateness, self.refusals)


async def fetch(target: Target) -> Answer:
    """Send the request once on a connection of its own; return the answer with its body.

    Raises:
        TimeoutError, ConnectionError: there is no whole answer.
    """
    async with asyncio.timeout(TIMEOUT_S):
        connection = await Connection.open(target.host, target.port, keeps_bodies=True)
        try:
            return await connection.send(target.request)
        finally:
            connection.close()


async def closed_loop(requests: Requests, *, connections: int, seconds: float) -> Load:
    """Let each connection send its next request when its last one is answered."""
    run = _Run(requests)
    opened = [await run.connect() for _ in range(connections)]
    stop_at = run.start() + seconds

    async def drive(connection: Connection) -> None:
        while (sent_at := perf_counter()) < stop_at:
            try:
                run.count(await connection.send(run.next()), sent_at, sent_at)
            except OSError:
                run.errors += 1
                connection = await run.connect()
        connection.close()

    await asyncio.gather(*map(drive, opened))
    return run.end()


async def warm_up(*servers: Requests, connections: int) -> None:
    """Send to one server after another in a closed loop that does not count."""
    for requests in servers:
        await closed_loop(requests, connections=connections, seconds=WARM_UP_S)


async def open_loop(
    requests: Requests,
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
    run = _Run(requests)
    free: asyncio.LifoQueue[Connection | None] = asyncio.LifoQueue()
    for _ in range(most):
        free.put_nowait(None)
    run.start()

    async def drive(intended_at: float) -> None:
        run.lateness.append(perf_counter() - intended_at)
        connection = await free.get()
        try:
            connection = connection or await run.connect()
            sent_at = perf_counter()
            run.count(await connection.send(run.next()), intended_at, sent_at)
        except OSError:
            run.errors += 1
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
        intended_at = run.started_at + offset
        await asyncio.sleep(max(0.0, intended_at - perf_counter()))
        tasks.append(asyncio.create_task(drive(intended_at)))
    end_at = run.started_at + seconds + grace_s
    _, pending = await asyncio.wait(tasks, timeout=end_at - perf_counter())
    load = run.end(len(pending), least_s=seconds)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    while not free.empty():
        if connection := free.get_nowait():
            connection.close()
    return load


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
