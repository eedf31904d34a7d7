"""Nothing that takes long runs on a replica's event loop, whatever clients send.

`make bench ARGS=event-loop` holds every step to a millisecond; here it is twenty, on any machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Final

import pytest
from starlette.types import Receive, Scope, Send

from rayserve_app.bench.figures.event_loop import kinds
from rayserve_app.bench.loop_probe import (
    ANY_STATUS,
    MOST_S,
    LoopProbe,
    ProbedModels,
    Request,
    longest_step,
    probed_models,
    send,
)
from rayserve_app.web.messages import Response
from tests.bench.requests_of_all_kinds import CASES, FAILURES, OTHERS, images, mixed, photo
from tests.servers import serving

BOUND_S: Final = 20 * MOST_S


@pytest.fixture(scope="module")
def models() -> Iterator[ProbedModels]:
    with probed_models("tests.bench.requests_of_all_kinds:MODELS") as models:
        yield models


@pytest.mark.parametrize("name", CASES)
def test_no_step_takes_long(models: ProbedModels, name: str) -> None:
    longest = longest_step(models.ask, models.port, [CASES[name]()], most_s=BOUND_S)
    assert longest.seconds <= BOUND_S, str(longest)


def test_what_the_bench_sends_is_answered_as_it_says() -> None:
    with probed_models("rayserve_app.bench.figures.event_loop:MODELS") as models:
        for requests in kinds().values():
            send(models.port, requests)


@pytest.mark.parametrize("seed", range(4))
def test_no_step_takes_long_under_load(models: ProbedModels, seed: int) -> None:
    """Of four connections, whose requests are of all kinds and sizes."""
    longest = longest_step(models.ask, models.port, mixed(seed), connections=4, most_s=BOUND_S)
    assert longest.seconds <= BOUND_S, str(longest)


CUT: Final = images("cut", "image", lambda: photo()[:-1000], "image/jpeg", ANY_STATUS)
# Not among the cases above: a processor that has waited for a deadline is slow at first.
LATE: Final = images("late", "late", photo, "image/jpeg", ANY_STATUS)
REFUSED: Final = {**OTHERS, **FAILURES, **LATE, **CUT}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_refused_request_holds_is_released_without_the_collector(
    models: ProbedModels, name: str
) -> None:
    """An error refers to the frames that it came through, and they to it and to the body."""
    models.ask("collect")
    send(models.port, [REFUSED[name]()])
    wait_until_nothing_is_held(models)


@pytest.mark.parametrize("sent", [0.5, 1.0])
@pytest.mark.parametrize("after_s", [0.0, 0.1])
def test_what_a_client_has_sent_is_released_when_it_leaves(
    models: ProbedModels, sent: float, after_s: float
) -> None:
    """At once, and when it is watched already; in the midst of its body, and when a model is at
    it."""
    models.ask("collect")
    connection = begin_late_request(models, len(photo()), photo()[: int(sent * len(photo()))])
    time.sleep(after_s)
    connection.close()
    send(models.port, [Request("bytes", "", method="GET")])
    wait_until_nothing_is_held(models)


def test_what_has_come_of_a_body_that_stops_is_released(models: ProbedModels) -> None:
    models.ask("collect")
    connection = begin_late_request(models, 1_000_000, photo())
    assert connection.getresponse().status == 408
    connection.close()
    wait_until_nothing_is_held(models)


def begin_late_request(models: ProbedModels, length: int, body: bytes) -> HTTPConnection:
    connection = HTTPConnection("127.0.0.1", models.port, timeout=60)
    connection.putrequest("POST", "/late/invocations")
    connection.putheader("content-length", str(length))
    connection.endheaders(body)
    return connection


def wait_until_nothing_is_held(models: ProbedModels) -> None:
    give_up_at = time.monotonic() + 5
    while held := models.ask("held"):
        assert time.monotonic() < give_up_at, held
        time.sleep(0.01)


def test_the_probe_finds_what_takes_long_and_where() -> None:
    async def compute(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        ends_at = time.thread_time() + 3 * MOST_S
        while time.thread_time() < ends_at:
            pass
        await Response(b"done").send(send, takes_views=True)

    probe = LoopProbe()
    with probe.watching(), serving(probe.around(compute), loop="asyncio") as port:
        asked = [Request("m", "", method="GET")]
        found = longest_step(lambda name: probe.answers[name](), port, asked, most_s=1)
    assert found.seconds >= 3 * MOST_S
    assert "compute" in found.what
