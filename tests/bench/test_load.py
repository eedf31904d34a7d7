"""The load generator against real servers on this machine's loopback."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rayserve_app.bench.large_answers import LargeAnswerClient, repeat
from rayserve_app.bench.load import (
    Load,
    Target,
    arrivals,
    closed_loop,
    fetch,
    open_loop,
)
from rayserve_app.process.timing import Timing
from tests.bench.echo import echo_server

OK = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
    b'Server-Timing: decode;dur=1.5, predict;dur=2;desc="4 items"\r\n\r\nok'
)
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class Server:
    """Answers what `answer` says of the request's number; None closes the connection."""

    def __init__(self, answer: Callable[[int], bytes | None]) -> None:
        self.requests = 0
        self.connections = 0
        self.bodies: list[bytes] = []
        self.stall_s = 0.0
        """How long the first request waits, and all others that come meanwhile."""
        self._answer = answer
        self._stalled = asyncio.Event()

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Target]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        asyncio.get_running_loop().call_later(self.stall_s, self._stalled.set)
        port = server.sockets[0].getsockname()[1]
        async with server:
            yield Target.post(f"http://127.0.0.1:{port}/path", b"body", "text/plain")
            self._stalled.set()
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"POST /path HTTP/1.1\r\n")
                self.bodies.append(await reader.readexactly(4))
                self.requests += 1
                answer = self._answer(self.requests)
                await self._stalled.wait()
                if answer is None:
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def test_closed_loop_counts_every_answer() -> None:
    server = Server(lambda _: OK)
    async with server.run() as target:
        load = await closed_loop(target, connections=3, seconds=0.2)
    assert len(load.latencies) == server.requests > 3
    assert (load.errors, load.unanswered, server.connections) == (0, 0, 3)
    assert set(server.bodies) == {b"body"}
    assert load.rate == pytest.approx(server.requests / load.seconds)
    assert 0.2 <= load.seconds < 0.5
    assert 0 < load.generator_cpu < 1.1


async def test_closed_loop_counts_other_statuses_as_errors() -> None:
    server = Server(lambda number: OK if number % 2 else BUSY)
    async with server.run() as target:
        load = await closed_loop(target, connections=1, seconds=0.1)
    assert load.errors == server.requests // 2 > 0
    assert len(load.latencies) + load.errors == server.requests


async def test_refusals_are_told_from_other_errors() -> None:
    answers = {1: OK, 2: BUSY, 3: BUSY.replace(b"503", b"429"), 4: BUSY.replace(b"503", b"504")}
    server = Server(lambda number: answers[number])
    async with server.run() as target:
        load = await open_loop(target, rate=40, seconds=0.1, poisson=False)
    assert (len(load.latencies), load.errors, len(load.refusals)) == (1, 3, 2)
    assert all(0 < seconds < 2 for seconds in load.refusals)


async def test_closed_loop_connects_anew_when_the_server_closes() -> None:
    server = Server(lambda number: None if number == 2 else OK)
    async with server.run() as target:
        load = await closed_loop(target, connections=1, seconds=0.1)
    assert (load.errors, server.connections) == (1, 2)
    assert len(load.latencies) == server.requests - 1 > 1


async def test_an_answer_in_pieces_is_read_to_its_end() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in (b"HTTP/1.1 200 O", b"K\r\ncontent-length: 4\r\n", b"\r\na", b"bc", b"d"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        answer = await fetch(Target.post(f"http://127.0.0.1:{port}/", b"", "text/plain"))
    assert (answer.status, answer.body_bytes) == (200, 4)
    assert answer.header("Content-Length") == "4"
    assert answer.header("absent") == ""
    assert (answer.headers, answer.body) == ({"content-length": "4"}, b"abcd")


async def test_open_loop_offers_its_rate_whatever_comes_back() -> None:
    server = Server(lambda number: OK if number % 4 else BUSY)
    async with server.run() as target:
        load = await open_loop(target, rate=200, seconds=0.4)
    assert server.requests == 80
    assert (len(load.latencies), load.errors, load.unanswered) == (60, 20, 0)


async def test_open_loop_counts_latency_from_the_intended_time() -> None:
    """A stall of 0.3 s delays what was due during it by 0.15 s on average, although only one
    request was ever sent into it."""
    server = Server(lambda _: OK)
    server.stall_s = 0.3
    async with server.run() as target:
        load = await open_loop(target, rate=100, seconds=0.3, poisson=False, most=1)
    assert len(load.latencies) == 30
    assert 0.1 < sum(load.latencies) / 30 < 0.25
    assert load.percentile(100) > 0.25


async def test_open_loop_leaves_what_is_not_answered_in_time() -> None:
    server = Server(lambda _: OK)
    server.stall_s = 60
    async with server.run() as target:
        load = await open_loop(target, rate=50, seconds=0.2, grace_s=0.1, most=4)
    assert (load.latencies, load.errors, load.unanswered) == ([], 0, 10)
    assert 0.3 <= load.seconds < 0.6
    assert load.rate == 0
    assert load.percentile(50) == float("inf")


def test_arrivals_are_as_many_as_the_rate_says() -> None:
    times = arrivals(200, 3.0, seed=1)
    assert len(times) == 600
    assert times == sorted(times) == arrivals(200, 3.0, seed=1) != arrivals(200, 3.0, seed=2)
    assert 0 <= times[0] < times[-1] <= 3.0
    assert arrivals(4, 1.0, seed=None) == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (25, 1), (26, 2), (50, 2), (99, 4), (100, 4)]
)
def test_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert Load([3.0, 1.0, 4.0, 2.0], 0, 0, 1.0, 0.0).percentile(percent) == expected


@given(st.lists(st.floats(0.0001, 60), min_size=1, max_size=3000))
@example(np.linspace(0.001, 1, 999).tolist())
@example(np.linspace(0.001, 1, 1000).tolist())
def test_percentiles_are_numpys(latencies: list[float]) -> None:
    found = Load(latencies, 0, 0, 1.0, 0.0).percentiles()
    expected = np.quantile(latencies, [0.5, 0.9, 0.99, 0.999], method="inverted_cdf") * 1e3
    names = ["p50_ms", "p90_ms", "p99_ms", "p999_ms"]
    assert list(found) == (names if len(latencies) >= 1000 else names[:3])
    np.testing.assert_allclose(list(found.values()), expected[: len(found)])


def test_what_has_no_good_answer_took_for_ever() -> None:
    load = Load([0.1] * 90, errors=2, unanswered=8, seconds=1, generator_cpu_seconds=0)
    assert load.percentile(90) == 0.1
    assert load.percentile(91) == load.percentiles()["p99_ms"] == math.inf


async def test_several_requests_are_sent_in_turn() -> None:
    server = Server(lambda _: OK)
    async with server.run() as target:
        others = [
            target._replace(request=target.request[:-4] + text) for text in (b"1111", b"two ")
        ]
        await closed_loop([target, *others], connections=1, seconds=0.1)
        closed, server.bodies = server.bodies, []
        await open_loop([target, *others], rate=60, seconds=0.1, most=1)
    assert closed[:7] == [b"body", b"1111", b"two ", b"body", b"1111", b"two ", b"body"]
    assert server.bodies == [b"body", b"1111", b"two "] * 2


async def test_requests_in_turn_go_to_one_server() -> None:
    targets = [Target.post(f"http://127.0.0.1:{port}/", b"", "a/b") for port in (1, 2)]
    with pytest.raises(ValueError, match=r"targets of one server, got .*1\), \('127.0.0.1', 2\)"):
        await closed_loop(targets, connections=1, seconds=0.1)


async def test_stages_are_read_from_the_good_answers() -> None:
    busy = OK.replace(b"200", b"503").replace(b"dur=1.5", b"dur=9")
    server = Server(lambda number: OK if number % 4 else busy)
    async with server.run() as target:
        load = await open_loop(target, rate=160, seconds=0.1, poisson=False)
    assert (len(load.latencies), load.errors) == (12, 4)
    assert load.stages == {"decode": 1.5, "predict": 2.0}


async def test_answers_without_stages_tell_of_none() -> None:
    server = Server(lambda _: OK.replace(b"Server-Timing", b"X"))
    async with server.run() as target:
        load = await closed_loop(target, connections=1, seconds=0.05)
    assert load.latencies
    assert load.stages == {}


async def test_of_many_answers_some_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rayserve_app.bench.load.MOST_TIMINGS", 5)
    server = Server(lambda _: OK)
    async with server.run() as target:
        load = await open_loop(target, rate=400, seconds=0.1, poisson=False)
    assert len(load.timings) == 5


async def test_the_load_generator_tells_how_late_it_was() -> None:
    server = Server(lambda _: OK)
    async with server.run() as target:
        asyncio.get_running_loop().call_later(0.05, time.sleep, 0.1)
        stalled = await open_loop(target, rate=100, seconds=0.2, poisson=False)
        closed = await closed_loop(target, connections=1, seconds=0.05)
    assert len(stalled.lateness) == 20
    assert 0.05 < max(stalled.lateness) <= stalled.percentile(100)
    assert stalled.late_p99_ms == max(stalled.lateness) * 1e3
    assert closed.late_p99_ms == 0


def test_echo_server_reads_whole_requests() -> None:
    async def run() -> Load:
        with echo_server() as url:
            target = Target.post(f"{url}/", b"x" * 300_000, "image/jpeg")
            return await closed_loop(target, connections=2, seconds=0.2)

    load = asyncio.run(run())
    assert load.errors == 0
    assert len(load.latencies) > 2


def test_large_answers_are_read_over_one_connection() -> None:
    with echo_server() as url:
        target = Target.post(f"{url}/", b"x", "a/b")
        with closing(LargeAnswerClient(target, least_bytes=9, buffer_bytes=9)) as client:
            load = repeat(client.send, 0.0, least=3)
        with (
            closing(LargeAnswerClient(target, least_bytes=10, buffer_bytes=9)) as client,
            pytest.raises(ConnectionError, match="Expected 10 bytes"),
        ):
            client.send()
    assert (len(load.latencies), load.errors) == (3, 0)


@pytest.mark.parametrize(
    ("value", "stages"),
    [
        ("miss, db;dur=53, app;dur=47.2", {"db": 53, "app": 47.2}),
        ('queue;dur=0.1, predict;dur=50.1;desc="8 items"', {"queue": 0.1, "predict": 50.1}),
        ("total ; dur = 123.4 ", {"total": 123.4}),
        ("", {}),
    ],
)
def test_stages_are_read_as_servers_write_them(value: str, stages: dict[str, float]) -> None:
    assert Load([1.0], 0, 0, 1.0, 0.0, [value]).stages == stages


def test_stages_are_medians_over_the_answers() -> None:
    values = [f"decode;dur={duration}, predict;dur=9" for duration in (1, 2, 30)]
    assert Load([1.0], 0, 0, 1.0, 0.0, values).stages == {"decode": 2, "predict": 9}


def test_what_our_server_writes_is_read() -> None:
    timing = Timing()
    timing.decode, timing.predict, timing.batch_items = 0.0015, 0.05, 32
    stages = Load([1.0], 0, 0, 1.0, 0.0, [timing.header()]).stages
    assert list(stages) == ["queue", "decode", "batch_wait", "predict", "encode"]
    assert (stages["decode"], stages["predict"]) == (1.5, 50)
