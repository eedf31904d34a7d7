"""Requests that take long: bodies that come too slowly, clients that leave."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from rayserve_app.errors import BodyTimeout
from rayserve_app.types import Buffer
from rayserve_app.web.messages import ClientDisconnected, Request, Response
from rayserve_app.web.slow_clients import WATCH_AFTER_S, watched
from tests.requests import chunks, create_request, never


async def read(request: Request) -> Buffer:
    """Return the body of a watched request."""

    async def handler(request: Request) -> Response:
        return Response(await request.body())

    return (await watched(handler, request)).buffers[0]


@pytest.mark.parametrize("pieces", [(), (b"abc",)])
async def test_a_body_that_stalls_is_given_up(pieces: tuple[bytes, ...]) -> None:
    stalling = chunks(*pieces, then="stalls")
    started_at = time.perf_counter()
    with pytest.raises(BodyTimeout, match=f"no pause over 0.1 s .*got {3 * len(pieces)} bytes in"):
        await read(create_request(stalling, body_timeout_s=0.1))
    assert 0.09 < time.perf_counter() - started_at < 2


async def test_a_body_that_trickles_is_given_up() -> None:
    trickle = chunks(*[b"a"] * 1000, pause_s=0.01)
    started_at = time.perf_counter()
    with pytest.raises(BodyTimeout, match="and 1 kB/s, got"):
        await read(create_request(trickle, body_timeout_s=0.1, min_body_rate_kb_s=1))
    assert 0.09 < time.perf_counter() - started_at < 2


@pytest.mark.parametrize("limits", [{"min_body_rate_kb_s": 0}, {"min_body_rate_kb_s": 1}])
async def test_a_slow_body_above_the_least_rate_is_read(limits: dict[str, float]) -> None:
    piece = b"a" if limits["min_body_rate_kb_s"] == 0 else b"a" * 100
    slow = chunks(*[piece] * 15, pause_s=0.01)
    body = await read(create_request(slow, body_timeout_s=0.1, **limits))
    assert len(body) == 15 * len(piece)


async def test_being_cancelled_is_not_being_slow() -> None:
    reading = asyncio.ensure_future(read(create_request(never)))
    await asyncio.sleep(2 * WATCH_AFTER_S)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_the_time_for_a_body_ends_with_it() -> None:
    async def handler(request: Request) -> Response:
        await request.body()
        await asyncio.sleep(3 * WATCH_AFTER_S)
        return Response()

    request = create_request(chunks(b"a"), body_timeout_s=WATCH_AFTER_S)
    assert (await watched(handler, request)).status == 200


async def test_work_for_a_client_that_has_left_is_cancelled() -> None:
    ended: list[str] = []

    async def handler(request: Request) -> Response:
        await request.body()
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return Response()

    leaving = iter([{"type": "http.request", "body": b"a"}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(leaving)

    started_at = time.perf_counter()
    with pytest.raises(ClientDisconnected):
        await watched(handler, create_request(receive))
    assert ended == ["cancelled"]
    assert time.perf_counter() - started_at < 5


async def test_a_watch_leaves_no_task_behind() -> None:
    async def handler(request: Request) -> Response:
        await asyncio.sleep(2 * WATCH_AFTER_S)
        return Response()

    before = asyncio.all_tasks()
    await watched(handler, create_request(never))
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
