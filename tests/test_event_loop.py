"""Nothing that takes over a millisecond runs on a replica's event loop, whatever clients send."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Final

import pytest
from starlette.types import Receive, Scope, Send

from rayserve_app.http import Response
from rayserve_app.model import INLINE_BYTES
from tests import dense_requests as dense
from tests import large_requests as large
from tests.large_requests import Make, Request
from tests.loop_lag import LoopProbe, Step
from tests.probed_models import ProbedModels, probed_models
from tests.servers import serving

MOST_S: Final = 1e-3

REPEATS: Final = 20
"""What takes longer does so every time; what the machine holds up, not every time."""

REPEATS_AT_ONCE: Final = 5
PAUSE_S: Final = 1.0
"""Between so many repeats, for a machine that is slow for a while."""


def merge(**groups: Mapping[str, Make]) -> dict[str, Make]:
    return {
        f"{group}: {name}": make for group, found in groups.items() for name, make in found.items()
    }


def in_any_form(found: Mapping[str, Make]) -> dict[str, Make]:
    """Return requests for results of which not all forms are known."""
    return {name: lambda make=make: make()._replace(status=None) for name, make in found.items()}


def of_any_status(**groups: Mapping[str, Make]) -> dict[str, Make]:
    return {
        name: lambda make=make: make()._replace(status=large.ANY_STATUS)
        for name, make in merge(**groups).items()
    }


BODIES: Final = merge(
    photo=large.images("image", large.photo, "image/jpeg"),
    large_photo=large.images("image", large.large_photo, "image/png"),
    large_bytes=large.images("bytes", large.large_photo, "image/png"),
    large_base64=large.images("base64", large.large_photo, "image/png"),
    large_request=large.requests("request", large.large_photo, "image/png"),
    many_rows=large.tensors("tensor", 1000, 200),
    long_rows=large.tensors("tensor", 10, 50_000),
    many_vectors=large.tensors("doubles", 1000, 200),
    streams=large.streams("yolo", "stream"),
)
ANSWERS: Final = merge(
    float32=large.answers("float32", 300_000),
    int8=large.answers("int8", 300_000),
    detections=in_any_form(large.answers("detections", 50_000)),
    sentences=in_any_form(large.answers("sentences", 1_000_000)),
)
OTHERS: Final = merge(
    faults=large.faults("tensor"),
    broken_base64=large.broken_base64("bytes"),
    documents=large.documents("tensor"),
)
DENSE: Final = merge(
    short_tensor=in_any_form(dense.numbers("tensor", INLINE_BYTES)),
    short_doubles=in_any_form(dense.numbers("doubles", INLINE_BYTES)),
    long_tensor=in_any_form(dense.numbers("tensor", 16 * INLINE_BYTES)),
    short_strings=dense.strings(INLINE_BYTES),
    long_strings=dense.strings(16 * INLINE_BYTES),
    few_images=in_any_form(dense.tiny_images(INLINE_BYTES)),
    many_images=in_any_form(dense.tiny_images(16 * INLINE_BYTES)),
    few_float32=dense.results("float32", INLINE_BYTES // 4),
    few_int8=dense.results("int8", INLINE_BYTES // 4),
    few_detections=in_any_form(dense.results("detections", 50)),
    few_sentences=in_any_form(dense.results("sentences", INLINE_BYTES // 5)),
)
FAILURES: Final = of_any_status(failing=large.images("failing", large.photo, "image/jpeg"))
CASES: Final = BODIES | ANSWERS | OTHERS | DENSE | FAILURES

LATE: Final = of_any_status(late=large.images("late", large.photo, "image/jpeg"))
"""No cases of the above: a processor that has waited for a deadline is slow at first."""


class Replica:
    """What is served in one event loop, which is probed."""

    def __init__(self, probe: LoopProbe | ProbedModels, port: int) -> None:
        self.probe = probe
        self._port = port

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self._port, timeout=60)

    def longest(self, *requests: Request, connections: int = 1) -> Step:
        """Return the longest step that the requests take every time."""
        found = []
        for _ in range(REPEATS):
            self.probe.restart()
            with ThreadPoolExecutor(connections) as clients:
                parts = [requests[start::connections] for start in range(connections)]
                for _ in clients.map(self.send, parts):
                    pass
            found.append(self.probe.longest)
            if found[-1].seconds <= MOST_S:
                break
            if len(found) % REPEATS_AT_ONCE == 0:
                time.sleep(PAUSE_S)
        return min(found)

    def send(self, requests: Sequence[Request]) -> None:
        connection = self.connect()
        for request in requests:
            headers = dict(request.headers)
            if request.content_type is not None:
                headers["content-type"] = request.content_type
            path = f"/{request.model}{request.path}"
            connection.request(request.method, path, request.body, headers)
            response = connection.getresponse()
            start = response.read(500)
            while response.read(1 << 20):
                pass
            if request.status is None:
                assert response.status < 500, start
            elif request.status != large.ANY_STATUS:
                assert response.status == request.status, start
        connection.close()


@pytest.fixture(scope="module")
def models() -> Iterator[ProbedModels]:
    with probed_models() as models:
        yield models


@pytest.fixture
def replica(models: ProbedModels) -> Replica:
    return Replica(models, models.port)


@pytest.mark.parametrize("name", CASES)
def test_no_step_takes_long(replica: Replica, name: str) -> None:
    longest = replica.longest(CASES[name]())
    assert longest.seconds <= MOST_S, str(longest)


@pytest.mark.parametrize("seed", range(4))
def test_no_step_takes_long_under_load(replica: Replica, seed: int) -> None:
    """Of four connections, whose requests are of all kinds and sizes."""
    chosen = random.Random(seed).sample([*(BODIES | ANSWERS | OTHERS).values()], 16)
    longest = replica.longest(*(make() for make in chosen), connections=4)
    assert longest.seconds <= MOST_S, str(longest)


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
        found = Replica(probe, port).longest(Request("m", "", method="GET"))
    assert found.seconds >= 3 * MOST_S
    assert "compute" in found.what
