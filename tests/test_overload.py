"""More than a model can do, in short: who is answered, who is refused, and what that costs."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from starlette.types import Receive, Scope, Send

from rayserve_app.asgi import create_app
from rayserve_app.bench import pictures
from rayserve_app.codecs import base64
from rayserve_app.connection import Connections
from rayserve_app.errors import Overloaded
from rayserve_app.model import Model
from tests.protocols import call, create_model
from tests.protocols.servers import mount
from tests.servers import serving

BATCH = 8
BATCH_S = 0.02

IMAGE = {"type": "image", "size": [8, 8]}


class Slow:
    """A model that takes BATCH_S for a batch, and remembers what was in them."""

    def __init__(self, batch_s: float = BATCH_S) -> None:
        self.batch_s = batch_s
        self.batches: list[list[Any]] = []

    def __call__(self, items: Sequence[Any]) -> list[int]:
        self.batches.append(list(items))
        time.sleep(self.batch_s)
        return [len(items)] * len(items)


def create(function: Callable[[Sequence[Any]], Any], **settings: Any) -> Model:
    declared = {
        "input": {"type": "bytes"},
        "batching": {"max_batch_size": BATCH},
        "deadline": {"latency_ms": 5000},
        "warm_up": False,
        **settings,
    }
    return create_model(function, **declared)


class Outcome(NamedTuple):
    answered: int
    refused: int
    others: list[BaseException]


async def offer(model: Model, items: Sequence[Any]) -> Outcome:
    """Ask for each item at once."""
    requests = [asyncio.ensure_future(model.predict([item])) for item in items]
    results = await asyncio.gather(*requests, return_exceptions=True)
    refusals = [result for result in results if isinstance(result, Overloaded)]
    others = [r for r in results if isinstance(r, BaseException) and r not in refusals]
    answered = sum(isinstance(result, list) for result in results)
    return Outcome(answered, len(refusals), others)


def total(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(
        sum(each.answered for each in outcomes),
        sum(each.refused for each in outcomes),
        [error for each in outcomes for error in each.others],
    )


async def fill(model: Model, item: Any) -> list[asyncio.Future[Any]]:
    """Take as much as the model takes; return the requests."""
    await model.predict([item])
    pending: list[asyncio.Future[Any]] = []
    while True:
        pending.append(asyncio.ensure_future(model.predict([item])))
        await asyncio.sleep(0)
        if pending[-1].done():
            assert isinstance(pending.pop().exception(), Overloaded)
            return pending
        assert len(pending) < 10_000


async def test_of_a_crowd_as_many_are_taken_as_can_be_answered_in_good_time() -> None:
    slow = Slow()
    model = create(slow)
    await offer(model, [b"1"] * 2 * BATCH)
    slow.batches.clear()
    answered, refused, others = await offer(model, [b"2"] * 3000)
    assert others == []
    assert refused == 3000 - answered
    # 2 s of 5: a hundred batches, fewer on a busy machine.
    assert 10 * BATCH < answered <= 110 * BATCH
    assert len(slow.batches) == -(-answered // BATCH)  # all full but the last


async def test_at_five_times_of_what_it_can_do_a_model_is_never_idle_nor_late() -> None:
    slow = Slow()
    model = create(slow, deadline={"latency_ms": 1000})
    await offer(model, [b"1"] * 2 * BATCH)
    slow.batches.clear()
    outcomes = []
    for _ in range(40):
        outcomes.append(asyncio.ensure_future(offer(model, [b"2"] * 5 * BATCH)))
        count = len(slow.batches)
        while len(slow.batches) == count:  # one batch later
            await asyncio.sleep(0.001)
    answered, refused, others = total(await asyncio.gather(*outcomes))
    assert others == []
    assert answered + refused == 40 * 5 * BATCH
    full = sum(len(batch) == BATCH for batch in slow.batches)
    assert full >= 0.9 * len(slow.batches)
    assert answered == sum(map(len, slow.batches))


async def test_a_refusal_is_immediate_and_nothing_is_decoded_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = create(Slow(0.3), input=IMAGE, batching={"max_batch_size": 1})
    decoded: list[Any] = []
    decode = model.inputs.decode
    monkeypatch.setattr(
        model.inputs, "decode", lambda item, out: decoded.append(item) or decode(item, out)
    )
    (image,) = model.inputs.from_encoded(pictures.png(16))
    pending = await fill(model, image)
    taken = 1 + len(pending)
    for _ in range(100):
        refused = asyncio.ensure_future(model.predict([image]))
        await asyncio.sleep(0)
        assert isinstance(refused.exception(), Overloaded)
    await asyncio.gather(*pending)
    assert len(decoded) == taken


async def test_images_that_take_long_to_decode_count_for_more_than_small_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of as many bytes: their pixels tell."""
    model = create(lambda items: [0] * len(items), input=IMAGE, threads={"decode": 1})
    small, large = (model.inputs.from_encoded(pictures.plain_png(side))[0] for side in (32, 320))
    monkeypatch.setattr(
        model.inputs, "decode", lambda item, out: time.sleep(0.1 if item is large else 0.001) or 0
    )
    for _ in range(3):
        await offer(model, [small])
        await offer(model, [large])
    many = await offer(model, [large] * 200)
    assert many.others == []
    assert 5 < many.answered <= 25  # 2 s of 5
    more = await offer(model, [small] * 200)
    assert more == Outcome(200, 0, [])


async def test_who_comes_again_when_told_to_is_answered() -> None:
    model = create(Slow(0.05), batching={"max_batch_size": 1}, deadline={"latency_ms": 4000})
    pending = await fill(model, b"1")
    with pytest.raises(Overloaded) as refused:
        await model.predict([b"2"])
    await asyncio.sleep(refused.value.retry_after_s)
    assert not all(request.done() for request in pending)
    assert len(await model.predict([b"3"])) == 1
    await asyncio.gather(*pending)


async def test_two_shapes_of_unlike_cost_each_count_as_what_they_take() -> None:
    def predict(items: Sequence[Any]) -> list[int]:
        time.sleep(0.1 if len(items[0]) > 1 else 0.002)
        return [0] * len(items)

    model = create(predict, input={"type": "tensor"}, batching={"max_batch_size": 1})
    cheap, costly = np.zeros(1), np.zeros(2)
    for _ in range(4):
        await offer(model, [cheap])
        await offer(model, [costly])
    assert (await offer(model, [cheap] * 30)).refused == 0
    many = await offer(model, [costly] * 100)
    assert many.others == []
    assert 8 < many.answered <= 25  # 2 s of 5
    assert (await offer(model, [cheap] * 30)).refused == 0


async def test_what_the_cache_knows_is_answered_by_a_model_that_is_overloaded() -> None:
    model = create(Slow(0.05), batching={"max_batch_size": 1}, cache={"max_mb": 1})
    app = create_app(model)
    await model.predict([b"known"])
    pending = []
    for number in range(10_000):
        pending.append(asyncio.ensure_future(model.predict([b"%d" % number])))
        for _ in range(5):
            await asyncio.sleep(0)
        if pending[-1].done():
            break
    assert isinstance(pending.pop().exception(), Overloaded)
    headers = {"content-type": "application/octet-stream"}
    known = await call(app, "POST", "/invocations", content=b"known", headers=headers)
    new = await call(app, "POST", "/invocations", content=b"new", headers=headers)
    assert (known.status_code, new.status_code) == (200, 503)
    for request in pending:
        request.cancel()


async def test_a_single_request_that_alone_takes_longer_is_taken_by_an_idle_model() -> None:
    model = create(Slow(0.01), batching={"max_batch_size": 1}, deadline={"latency_ms": 3000})
    await model.predict([b"1"])
    assert len(await model.predict([b"2"] * 150)) == 150  # 1.5 s of 3


PIXEL = pictures.png(8)
TEXT = base64.encode(PIXEL)

ROUTES = {
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
    model = create(Slow(), input=IMAGE)
    assert set(ROUTES) == set(model.settings.protocols)


@pytest.mark.parametrize("protocol", ROUTES)
async def test_every_protocol_refuses_before_it_reads_and_says_when_to_come_again(
    protocol: str,
) -> None:
    model = create(Slow(0.25), input=IMAGE, batching={"max_batch_size": 1})
    path, content = ROUTES[protocol]
    given = {"json": content} if isinstance(content, dict) else {"content": content}
    if "json" not in given:
        given["headers"] = {"content-type": "image/png"}
    app = create_app(model)
    assert (await call(app, "POST", path, **given)).status_code == 200
    (image,) = model.inputs.from_encoded(PIXEL)
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
    assert refused.headers["retry-after"] == "1"
    assert "has too much to do" in refused.text
    assert not was_read
    for request in pending:
        request.cancel()


def test_a_connection_is_used_again_after_its_body_was_refused_unread() -> None:
    gate = threading.Event()
    model = create(lambda items: gate.wait(30) and [0] * len(items), limits={"max_queued_items": 1})
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
