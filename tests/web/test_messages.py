"""Bodies read within limits, answers of several buffers."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve_app.codecs import json
from rayserve_app.errors import Overloaded, RequestTooLarge, UnsupportedContentType
from rayserve_app.web.messages import (
    CHUNK_BYTES,
    BodyBudget,
    ClientDisconnected,
    Response,
    no_such_path,
)
from tests.requests import chunks, create_request, never


@pytest.mark.parametrize("pieces", [(b"",), (b"abc",), (b"a", b"", b"bc"), (b"ab", b"c", b"")])
async def test_a_body_comes_in_one_piece_or_many(pieces: tuple[bytes, ...]) -> None:
    request = create_request(chunks(*pieces))
    assert not request.body_read.is_set()
    assert await request.body() == b"".join(pieces)
    assert request.body_read.is_set()


@given(st.lists(st.sampled_from((0, 1, 1023, 1024, 1025, 70_000)), min_size=1, max_size=12))
def test_small_and_large_pieces_keep_their_order(sizes: list[int]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    assert asyncio.run(create_request(chunks(*pieces)).body()) == b"".join(pieces)


async def test_a_body_in_tiny_pieces_takes_little_more_memory_than_its_bytes() -> None:
    remaining = iter(range(20_000, -1, -1))

    async def receive() -> Any:
        return {"type": "http.request", "body": os.urandom(2), "more_body": next(remaining) > 0}

    request = create_request(receive)
    tracemalloc.start()
    try:
        body = await request.body()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(body)  # the pieces' own objects would be twenty times as large


async def test_headers_are_read_by_their_name() -> None:
    request = create_request(never, (b"accept", b"a"), (b"x-name", b"\xe9"), (b"accept", b"b"))
    assert request.header("accept") == "b"
    assert request.header("x-name") == "é"
    assert request.header("content-type") is None


async def test_a_body_that_is_announced_too_large_is_refused_before_it_is_read() -> None:
    request = create_request(never, (b"content-length", b"2000001"), max_body_mb=2)
    with pytest.raises(RequestTooLarge, match="at most 2000000 bytes, got 2000001 bytes"):
        await request.body()


@pytest.mark.parametrize("length", [b"", b"-1", b"x", b"\xb2", b"1e9"])
async def test_a_length_that_is_no_number_says_nothing(length: bytes) -> None:
    assert await create_request(chunks(b"abc"), (b"content-length", length)).body() == b"abc"


@pytest.mark.parametrize("pieces", [(b"a" * 11,), (b"a" * 6, b"a" * 5), (b"a" * 11, b"a")])
async def test_a_body_that_grows_too_large_is_refused(pieces: tuple[bytes, ...]) -> None:
    request = create_request(chunks(*pieces), max_body_mb=0.00001)
    with pytest.raises(RequestTooLarge, match="at most 10 bytes, got 11 bytes so far"):
        await request.body()


async def test_a_body_as_large_as_it_may_be_is_read() -> None:
    assert len(await create_request(chunks(b"a" * 10), max_body_mb=0.00001).body()) == 10


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"identity, gzip"])
async def test_a_coded_body_is_refused_before_it_is_read(coding: bytes) -> None:
    with pytest.raises(UnsupportedContentType, match="expected identity"):
        await create_request(never, (b"content-encoding", coding)).body()


@pytest.mark.parametrize("coding", [b"identity", b" Identity ", b""])
async def test_identity_is_no_coding(coding: bytes) -> None:
    assert await create_request(chunks(b"a"), (b"content-encoding", coding)).body() == b"a"


async def test_the_bodies_of_all_requests_fit_into_one_budget() -> None:
    budget = BodyBudget(0.00001)
    first = create_request(chunks(b"a" * 3, b"a" * 3), budget=budget)
    assert len(await first.body()) == 6
    second = create_request(chunks(b"a" * 4, b"a"), budget=budget)
    with pytest.raises(Overloaded, match="bodies of other requests fill 1e-05 MB"):
        await second.body()
    for request in (first, second, first):
        request.close()
    assert len(await create_request(chunks(b"a" * 10), budget=budget).body()) == 10
    with pytest.raises(Overloaded):
        await create_request(chunks(b"a"), budget=budget).body()


@pytest.mark.parametrize("pieces", [(), (b"abc",)])
async def test_a_client_that_leaves_gets_no_answer(pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(ClientDisconnected):
        await create_request(chunks(*pieces, then="leaves")).body()


async def sent(response: Response, **options: Any) -> tuple[dict[str, Any], list[Any]]:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    await response.send(send, **({"takes_views": False} | options))
    assert [message.get("more_body", False) for message in messages[1:]] == [
        *[True] * (len(messages) - 2),
        False,
    ]
    return messages[0], [message["body"] for message in messages[1:]]


async def test_a_small_answer_is_one_message() -> None:
    response = Response(b"abc", status=201, media_type="text/plain", headers={"x-a": "é"})
    start, bodies = await sent(response)
    assert start == {
        "type": "http.response.start",
        "status": 201,
        "headers": [(b"x-a", b"\xe9"), (b"content-type", b"text/plain"), (b"content-length", b"3")],
    }
    assert bodies == [b"abc"]


@pytest.mark.parametrize("body", [b"", []])
async def test_an_empty_answer_has_a_length_too(body: Any) -> None:
    start, bodies = await sent(Response(body))
    assert start["headers"] == [(b"content-length", b"0")]
    assert b"".join(bodies) == b""


@pytest.mark.parametrize("takes_views", [True, False])
async def test_views_go_only_to_a_server_that_takes_them(takes_views: bool) -> None:
    large = bytes(range(256)) * (CHUNK_BYTES // 256) + b"end"
    buffers = [b"header", memoryview(large), bytearray(b"tail")]
    start, bodies = await sent(Response(buffers), takes_views=takes_views)
    assert start["headers"] == [(b"content-length", b"%d" % (len(large) + 10))]
    assert b"".join(bodies) == b"header" + large + b"tail"
    assert max(map(len, bodies)) == CHUNK_BYTES
    kinds = {type(body) for body in bodies[:-1]}
    assert kinds == ({memoryview} if takes_views else {bytes})
    if takes_views:
        assert bodies[1].obj is large


async def test_head_tells_the_length_and_sends_nothing() -> None:
    start, bodies = await sent(Response([b"ab", b"c"]), with_body=False)
    assert start["headers"] == [(b"content-length", b"3")]
    assert bodies == [b""]


@pytest.mark.parametrize(
    ("path", "question"),
    [
        ("/pong", "Did you mean '/ping'?"),
        ("/Ping", "Did you mean '/ping'?"),
        ("/v2/models/digits/infr", "Did you mean '/v2/models/digits/infer'?"),
        ("/v1/models/digits:predictt", "Did you mean '/v1/models/digits:predict'?"),
        ("/%", "All paths are in `openapi.json`."),
    ],
)
def test_a_mistyped_path_is_answered_with_the_nearest(path: str, question: str) -> None:
    known = ("/ping", "/ping/", "/v2/models/{model}/infer", "/v1/models/{model}:predict")
    response = no_such_path(path, known)
    assert response.status == 404
    assert json.decode(response.buffers[0]) == {"error": f"No such path {path!r}. {question}"}


def test_a_long_path_is_neither_compared_nor_repeated_whole() -> None:
    response = no_such_path("/" + "a/" * 10_000, [f"/{'{a}/' * 20}{n}" for n in range(100)])
    assert len(response.buffers[0]) < 1000
