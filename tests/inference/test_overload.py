"""More than a model can do: who is answered, how late, who is refused, and what that costs.

In a time of its own (virtual_time.py): the same on any machine, and over at once.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from starlette.types import Receive, Scope, Send

from deployments.internals.connection import Connections
from rayserve_app.app import create_app
from rayserve_app.bench import pictures
from rayserve_app.codecs import base64
from rayserve_app.errors import Overloaded
from rayserve_app.inference.model import Model
from tests.inference.virtual_time import Clock, run
from tests.protocols import call, create_model
from tests.protocols.servers import mount
from tests.servers import serving

IMAGE = {"type": "image", "size": [8, 8]}

MOST_REQUESTS = 800
"""Of what a model can do in a test."""

Take = Callable[[Sequence[Any]], float]
"""The seconds that a batch takes."""


def create(clock: Clock, take: Take, **settings: Any) -> Model:
    """Return a model whose batches take so long, of eight items if nothing else is said."""
    declared = {
        "input": {"type": "bytes"},
        "batching": {"max_batch_size": 8},
        "deadline": {"latency_ms": 3000},
        "warm_up": False,
        **settings,
    }
    return create_model(lambda items: clock.spend(take(items)) or [0] * len(items), **declared)


class Outcome(NamedTuple):
    """What came of some requests."""

    latencies: Sequence[float]
    """Of the answered, sorted."""
    refused: int
    failed: int
    seconds: float

    @property
    def answered_per_s(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def p99(self) -> float:
        return self.latencies[int(0.99 * len(self.latencies))]


async def offer(clock: Clock, model: Model, items: Sequence[Any], at: Sequence[float]) -> Outcome:
    """Ask for one item after the other, over and over, at these times from now on."""
    started_at = clock.time()
    latencies: list[float] = []

    async def ask(item: Any, due_at: float) -> str:
        await asyncio.sleep(due_at - clock.time())
        try:
            model.check_admission()
            await model.predict([item])
        except Overloaded:
            assert clock.time() == due_at  # at once
            return "refused"
        except Exception:
            return "failed"
        latencies.append(clock.time() - due_at)
        return "answered"

    told = await asyncio.gather(
        *(ask(items[n % len(items)], started_at + offset) for n, offset in enumerate(at))
    )
    seconds = clock.time() - started_at
    return Outcome(sorted(latencies), told.count("refused"), told.count("failed"), seconds)


def arrivals(per_s: float, seconds: float) -> list[float]:
    source = random.Random(7)
    return sorted(source.uniform(0, seconds) for _ in range(round(per_s * seconds)))


async def warm(model: Model, *items: Any) -> None:
    """Let a model be known: one item at a time, and some together."""
    for item in items * 3:
        await model.predict([item])
    await asyncio.gather(*(model.predict([item]) for item in items * 3))


async def fill(model: Model, item: Any) -> list[asyncio.Future[Any]]:
    """Have as much taken at once as is taken; return the requests."""
    pending: list[asyncio.Future[Any]] = []
    while True:
        pending.append(asyncio.ensure_future(model.predict([item])))
        for _ in range(5):
            await asyncio.sleep(0)
        if pending[-1].done():
            assert isinstance(pending.pop().exception(), Overloaded)
            return pending
        assert len(pending) < 10_000


def constant(seconds: float) -> Take:
    return lambda items: seconds


def growing(fixed_s: float, item_s: float) -> Take:
    return lambda items: fixed_s + item_s * len(items)


def noisy(take: Take) -> Take:
    source = random.Random(3)
    return lambda items: take(items) * source.uniform(0.8, 1.2)


@pytest.mark.parametrize("times", [2, 5])
@pytest.mark.parametrize(
    ("take", "size", "slots", "deadline_s"),
    [
        pytest.param(constant(0.2), 8, 1, 10, id="patient"),
        pytest.param(constant(0.2), 8, 1, 1, id="hasty"),
        pytest.param(constant(0.05), 32, 1, 3, id="gpu"),
        pytest.param(constant(0.2), 8, 2, 10, id="two slots"),
        pytest.param(growing(0, 0.024), 8, 1, 1, id="cpu"),
        pytest.param(growing(0, 0.03), 32, 1, 3, id="cpu, batches of a third of the deadline"),
        pytest.param(growing(0.1, 0.01), 16, 1, 2, id="both"),
        pytest.param(noisy(constant(0.2)), 8, 1, 1, id="hasty and noisy"),
        pytest.param(noisy(growing(0.02, 0.02)), 8, 1, 3, id="both and noisy"),
    ],
)
def test_a_model_answers_what_it_can_in_good_time_and_refuses_the_rest(
    monkeypatch: pytest.MonkeyPatch,
    times: float,
    take: Take,
    size: int,
    slots: int,
    deadline_s: float,
) -> None:
    seconds = [take([b""] * size) for _ in range(100)]
    capacity = slots * size * len(seconds) / sum(seconds)

    async def work(clock: Clock) -> Outcome:
        model = create(
            clock,
            take,
            batching={"max_batch_size": size, "max_concurrent_batches": slots},
            deadline={"latency_ms": 1e3 * deadline_s},
        )
        await warm(model, b"1")
        at = arrivals(times * capacity, min(10 * deadline_s, MOST_REQUESTS / capacity))
        return await offer(clock, model, [b"2"], at)

    outcome = run(monkeypatch, work)
    assert outcome.failed == 0
    assert outcome.answered_per_s >= 0.9 * capacity
    assert outcome.p99 <= 0.5 * deadline_s
    assert outcome.refused > 0


def test_what_a_model_can_do_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(clock: Clock) -> Outcome:
        model = create(clock, growing(0.1, 0.0125))
        await warm(model, b"1")
        return await offer(clock, model, [b"2"], arrivals(0.8 * 40, 60))

    outcome = run(monkeypatch, work)
    assert (outcome.refused, outcome.failed) == (0, 0)


@pytest.mark.parametrize("take", [constant(0.2), growing(0, 0.2)])
def test_two_callers_of_a_model_that_takes_a_fifth_of_its_deadline_are_not_refused(
    monkeypatch: pytest.MonkeyPatch, take: Take
) -> None:
    async def work(clock: Clock) -> None:
        model = create(clock, take, deadline={"latency_ms": 1000})

        async def ask() -> None:
            for _ in range(20):
                await model.predict([b"1"])

        await ask()
        await asyncio.gather(ask(), ask())

    run(monkeypatch, work)


def test_a_crowd_of_which_one_batch_is_enough_is_taken_by_a_model_that_saw_single_items(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody knows yet that thirty take as long as one."""

    async def work(clock: Clock) -> Outcome:
        model = create(clock, constant(0.5), batching={"max_batch_size": 32})
        await model.predict([b"1"])
        await model.predict([b"1"])
        return await offer(clock, model, [b"2"], [*[0.0] * 30, *[0.1] * 30])

    outcome = run(monkeypatch, work)
    assert (len(outcome.latencies), outcome.refused, outcome.failed) == (60, 0, 0)


@pytest.mark.parametrize("times", [2, 5])
def test_images_that_take_long_to_decode_count_for_more_than_small_ones(
    monkeypatch: pytest.MonkeyPatch, times: float
) -> None:
    """Of as many bytes: their pixels tell. Both kinds are answered."""
    decoded: list[Any] = []

    async def work(clock: Clock) -> tuple[Outcome, int]:
        model = create(clock, constant(0), input=IMAGE, threads={"decode": 1})
        small, large = (
            model.inputs.from_json_item(pictures.plain_png(side))[0] for side in (32, 512)
        )

        def decode(item: Any, out: Any) -> Any:
            decoded.append(item)
            clock.spend(0.08 if item is large else 0.001)
            return np.zeros((8, 8, 3), np.uint8)

        monkeypatch.setattr(model.inputs, "decode", decode)
        await warm(model, small, large)
        decoded.clear()
        at = arrivals(times * 4 / 0.083, 20)
        return await offer(clock, model, [small, small, large, small], at), decoded.count(large)

    outcome, large = run(monkeypatch, work)
    assert outcome.failed == 0
    assert outcome.p99 <= 1.5
    assert len(decoded) == len(outcome.latencies)  # none of what was refused
    busy_s = 0.08 * large + 0.001 * (len(decoded) - large)
    assert busy_s >= 0.9 * outcome.seconds


@pytest.mark.parametrize("times", [2, 5])
def test_items_of_unlike_shape_count_for_what_each_takes(
    monkeypatch: pytest.MonkeyPatch, times: float
) -> None:
    batches: list[float] = []

    def take(items: Sequence[Any]) -> float:
        batches.append(len(items) * (0.1 if len(items[0]) > 1 else 0.002))
        return batches[-1]

    async def work(clock: Clock) -> Outcome:
        model = create(clock, take, input={"type": "tensor"})
        cheap, costly = np.zeros(1), np.zeros(2)
        await warm(model, cheap, costly)
        batches.clear()
        return await offer(clock, model, [cheap, costly], arrivals(times * 2 / 0.102, 30))

    outcome = run(monkeypatch, work)
    assert outcome.failed == 0
    assert outcome.p99 <= 1.5
    assert sum(batches) >= 0.95 * outcome.seconds  # it is never idle


def test_a_crowd_that_comes_at_once_is_taken_as_far_as_it_can_be_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(clock: Clock) -> Outcome:
        model = create(clock, growing(0, 0.025), deadline={"latency_ms": 10_000})
        await warm(model, b"1")
        return await offer(clock, model, [b"2"], [0.0] * 700)

    outcome = run(monkeypatch, work)
    assert (len(outcome.latencies), outcome.failed) == (139, 0)
    assert outcome.latencies[-1] == pytest.approx(3.475)  # 3.5 s of 10


def test_who_comes_again_when_told_to_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(clock: Clock) -> None:
        model = create(clock, growing(0, 0.025), deadline={"latency_ms": 10_000})
        await warm(model, b"1")
        for items in (1, 60, 200):
            pending = await fill(model, b"2")
            with pytest.raises(Overloaded) as refused:
                await model.predict([b"3"] * items)
            await asyncio.sleep(refused.value.retry_after_s)
            assert len(await model.predict([b"3"] * items)) == items
            await asyncio.gather(*pending)

    run(monkeypatch, work)


def test_a_single_request_that_takes_longer_is_taken_by_an_idle_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(clock: Clock) -> None:
        model = create(clock, growing(0, 0.01))
        await warm(model, b"1")
        assert len(await model.predict([b"2"] * 250)) == 250  # 2.5 s of 3

    run(monkeypatch, work)


def test_what_the_cache_knows_is_answered_by_a_model_that_is_overloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(clock: Clock) -> None:
        model = create(clock, constant(0.5), batching={"max_batch_size": 1}, cache={"max_mb": 1})
        app = create_app(model)
        await model.predict([b"known"])
        pending = [asyncio.ensure_future(model.predict([b"%d" % n])) for n in range(9)]
        await asyncio.sleep(0.01)
        headers = {"content-type": "application/octet-stream"}
        statuses = [
            (await call(app, "POST", "/invocations", content=body, headers=headers)).status_code
            for body in (b"known", b"new")
        ]
        assert statuses == [200, 503]
        await asyncio.gather(*pending, return_exceptions=True)

    run(monkeypatch, work)


PIXEL = pictures.png(8)
TEXT = base64.encode(PIXEL)

ROUTES: dict[str, tuple[str, Any]] = {
    "clipper": ("/predict", {"input": TEXT}),
    "sagemaker": ("/invocations", PIXEL),
    "sagemaker_runtime": ("/endpoints/m/invocations", PIXEL),
    "tensorflow_serving": ("/v1/models/m:predict", {"instances": [{"b64": TEXT}]}),
    "open_inference": (
        "/v2/models/m/infer",
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [TEXT]}]},
    ),
    "simple_tensorflow_serving": ("/", {"data": {"image": [TEXT]}}),
    "cluster_serving": ("/models/m/versions/1/predict", {"instances": [{"image": TEXT}]}),
    "multi_model_server": ("/predictions/m", PIXEL),
}


def test_every_protocol_is_asked() -> None:
    assert set(ROUTES) == set(create_model(len, input=IMAGE, warm_up=False).settings.protocols)


@pytest.mark.parametrize("protocol", ROUTES)
def test_every_protocol_refuses_before_it_reads_and_says_when_to_come_again(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    path, content = ROUTES[protocol]
    given = {"json": content}
    if isinstance(content, bytes):
        given = {"content": content, "headers": {"content-type": "image/png"}}

    async def work(clock: Clock) -> None:
        model = create(
            clock,
            constant(1),
            input=IMAGE,
            batching={"max_batch_size": 1},
            deadline={"latency_ms": 20_000},
        )
        app = create_app(model)
        for _ in range(2):
            assert (await call(app, "POST", path, **given)).status_code == 200
        (image,) = model.inputs.from_json_item(PIXEL)
        pending = await fill(model, image)
        was_read = False

        async def read(scope: Scope, receive: Receive, send: Send) -> None:
            async def receive_and_tell() -> Any:
                nonlocal was_read
                was_read = True
                return await receive()

            await app(scope, receive_and_tell, send)

        refused = await call(read, "POST", path, **given)  # type: ignore[arg-type]
        assert refused.status_code in (429, 503)
        assert refused.headers["retry-after"] == "4"  # half of 7 s
        assert "has too much to do" in refused.text
        assert not was_read
        await asyncio.gather(*pending)

    run(monkeypatch, work)


def test_a_connection_is_used_again_after_its_body_was_refused_unread() -> None:
    gate = threading.Event()
    model = create_model(
        lambda items: gate.wait(30) and [0] * len(items),
        input={"type": "bytes"},
        limits={"max_queued_items": 1},
    )
    app = mount(create_app(model), "/m")
    body = bytes(1 << 22)
    head = b"POST /m/invocations HTTP/1.1\r\nhost: h\r\ncontent-type: application/octet-stream\r\n"
    with (
        serving(app, http=Connections(app, lambda _: None)) as port,
        socket.create_connection(("127.0.0.1", port), 20) as blocked,
        httpx.Client(base_url=f"http://127.0.0.1:{port}/m", timeout=20) as client,
        socket.create_connection(("127.0.0.1", port), 20) as connection,
    ):
        blocked.sendall(head + b"content-length: 1\r\n\r\n1")
        while client.post("/invocations", content=b"").status_code != 503:
            time.sleep(0.01)
        connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body[: 1 << 16])
        answer = connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in answer.lower()
        connection.sendall(body[1 << 16 :])
        connection.sendall(b"GET /m/ping HTTP/1.1\r\nhost: h\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        gate.set()
        assert blocked.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
