"""A load generator: HTTP/1.1 over kept connections, closed loop and open loop.

It writes prepared bytes and reads just enough of an answer to know where it ends, so one process
drives several times what a Serve instance on the same cores answers (bench/echo.py shows it).
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from time import perf_counter, process_time
from typing import Final, NamedTuple

from rayserve_app.bench import server_timing
from rayserve_app.bench.connection import Answer, Connection, find_header

PERCENTILES: Final = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99}
LEAST_FOR_P999: Final = 1000
"""Of fewer requests the 99.9th percentile is the slowest one, which chance picks."""

REFUSED: Final = (429, 503)
"""The statuses of a server that has too much to do."""

MOST_TIMINGS: Final = 500
WARM_UP_S: Final = 0.5


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
        """Return the percentiles that a report tells, in milliseconds; that of 99.9 where there are
        `LEAST_FOR_P999` requests."""
        told: dict[str, float] = dict(PERCENTILES)
        if len(self._sorted) >= LEAST_FOR_P999:
            told["p999_ms"] = 99.9
        return {name: self.percentile(percent) * 1e3 for name, percent in told.items()}

    @cached_property
    def stages(self) -> dict[str, float]:
        """The median of each stage of `Server-Timing`, in milliseconds."""
        return server_timing.median_stages(self.timings)

    @cached_property
    def batches(self) -> Counter[int]:
        """How many batches there were of each size, estimated from `Server-Timing`: as if every
        request had one item."""
        share = len(self.timings) / max(1, len(self.latencies))
        return server_timing.count_batches(self.timings, share)

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
        return float("inf")
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


class _Run:
    """What a run counts while the clock runs; of the answers only the heads are kept, to be read
    when it is over."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.lateness: list[float] = []
        self.refusals: list[float] = []
        self.errors = 0
        self._heads: list[bytes] = []
        self.started_at = perf_counter()
        self._cpu_before = process_time()

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
        timings = [
            found.decode("latin-1")
            for head in self._heads[::step]
            if (found := find_header(head, b"server-timing"))
        ]
        return Load(
            self.latencies,
            self.errors,
            unanswered,
            seconds,
            cpu_seconds,
            timings,
            self.lateness,
            self.refusals,
        )


async def send_once(target: Target) -> Answer:
    """Send the request once on a connection of its own."""
    connection = await Connection.open(target.host, target.port)
    try:
        return await connection.send(target.request)
    finally:
        connection.close()


class _Requests:
    """The requests to one server, in turn."""

    def __init__(self, targets: Target | Sequence[Target]) -> None:
        several = [targets] if isinstance(targets, Target) else targets
        addresses = {(target.host, target.port) for target in several}
        if len(addresses) != 1:
            raise ValueError(f"Expected targets of one server, got {sorted(addresses)}")
        (self._address,) = addresses
        self.next: Callable[[], bytes] = cycle([target.request for target in several]).__next__

    async def connect(self) -> Connection:
        return await Connection.open(*self._address)


async def closed_loop(
    targets: Target | Sequence[Target], *, connections: int, seconds: float
) -> Load:
    """Let each connection send its next request when its last one is answered.

    Args:
        targets: one request, or some to one server that are sent in turn.
    """
    requests = _Requests(targets)
    opened = [await requests.connect() for _ in range(connections)]
    run = _Run()
    stop_at = run.started_at + seconds

    async def drive(connection: Connection) -> None:
        while (sent_at := perf_counter()) < stop_at:
            try:
                run.count(await connection.send(requests.next()), sent_at, sent_at)
            except OSError:
                run.errors += 1
                connection = await requests.connect()
        connection.close()

    await asyncio.gather(*map(drive, opened))
    return run.end()


async def warm_up(*servers: Target | Sequence[Target], connections: int) -> None:
    """Send to one server after another in a closed loop that does not count."""
    for targets in servers:
        await closed_loop(targets, connections=connections, seconds=WARM_UP_S)


async def open_loop(
    targets: Target | Sequence[Target],
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
        targets: one request, or some to one server that are sent in turn.
        rate: requests per second, at random times if `poisson`, else evenly spaced.
        seed: of the random times; the same seed, the same times.
        most: connections at most; a request that finds none free waits, and its clock runs.
        grace_s: how long to wait for answers after `seconds`.
    """
    requests = _Requests(targets)
    free: asyncio.LifoQueue[Connection | None] = asyncio.LifoQueue()
    for _ in range(most):
        free.put_nowait(None)
    run = _Run()

    async def drive(intended_at: float) -> None:
        run.lateness.append(perf_counter() - intended_at)
        connection = await free.get()
        try:
            connection = connection or await requests.connect()
            sent_at = perf_counter()
            run.count(await connection.send(requests.next()), intended_at, sent_at)
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
