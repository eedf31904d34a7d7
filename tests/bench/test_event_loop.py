"""Nothing that takes long runs on a replica's event loop, whatever clients send.

`make bench ARGS=event-loop` holds every step to a millisecond; here it is twenty, on any machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Final

import pytest
from starlette.types import Receive, Scope, Send

from rayserve_app.bench.event_loop import large
from rayserve_app.bench.event_loop.large import Request
from rayserve_app.bench.event_loop.models import ProbedModels, probed_models
from rayserve_app.bench.event_loop.probe import LoopProbe
from rayserve_app.bench.event_loop.requests import (
    CASES,
    FAILURES,
    LATE,
    MOST_S,
    OTHERS,
    Replica,
    mixed,
    of_any_status,
)
from rayserve_app.web.messages import Response
from tests.servers import serving

BOUND_S: Final = 20 * MOST_S


@pytest.fixture(scope="module")
def models() -> Iterator[ProbedModels]:
    with probed_models() as models:
        yield models


@pytest.fixture
def replica(models: ProbedModels) -> Replica:
    return Replica(models, models.port)


@pytest.mark.parametrize("name", CASES)
def test_no_step_takes_long(replica: Replica, name: str) -> None:
    longest = replica.longest(CASES[name](), most_s=BOUND_S)
    assert longest.seconds <= BOUND_S, str(longest)


@pytest.mark.parametrize("seed", range(4))
def test_no_step_takes_long_under_load(replica: Replica, seed: int) -> None:
    """Of four connections, whose requests are of all kinds and sizes."""
    longest = replica.longest(*mixed(seed), connections=4, most_s=BOUND_S)
    assert longest.seconds <= BOUND_S, str(longest)


CUT: Final = of_any_status(cut=large.images("image", lambda: large.photo()[:-1000], "image/jpeg"))
REFUSED: Final = OTHERS | FAILURES | LATE | CUT


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_refused_request_holds_is_let_go_without_the_collector(
    models: ProbedModels, replica: Replica, name: str
) -> None:
    """An error refers to the frames that it came through, and they to it and to the body."""
    models.collect()
    replica.send([REFUSED[name]()])
    wait_until_nothing_is_held(models)


@pytest.mark.parametrize("sent", [0.5, 1.0])
@pytest.mark.parametrize("after_s", [0.0, 0.1])
def test_what_a_client_has_sent_is_let_go_when_it_leaves(
    models: ProbedModels, replica: Replica, sent: float, after_s: float
) -> None:
    """At once, and when it is watched already; in the midst of its body, and when a model is at
    it."""
    models.collect()
    body = large.photo()
    connection = replica.connect()
    connection.putrequest("POST", "/late/invocations")
    connection.putheader("content-length", str(len(body)))
    connection.endheaders(body[: int(sent * len(body))])
    time.sleep(after_s)
    connection.close()
    replica.send([Request("bytes", "", method="GET")])
    wait_until_nothing_is_held(models)


def test_what_has_come_of_a_body_that_stops_is_let_go(
    models: ProbedModels, replica: Replica
) -> None:
    models.collect()
    connection = replica.connect()
    connection.putrequest("POST", "/late/invocations")
    connection.putheader("content-length", "1000000")
    connection.endheaders(large.photo())
    assert connection.getresponse().status == 408
    connection.close()
    wait_until_nothing_is_held(models)


def wait_until_nothing_is_held(models: ProbedModels) -> None:
    give_up_at = time.monotonic() + 5
    while held := models.held:
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
        found = Replica(probe, port).longest(Request("m", "", method="GET"), most_s=1)
    assert found.seconds >= 3 * MOST_S
    assert "compute" in found.what
