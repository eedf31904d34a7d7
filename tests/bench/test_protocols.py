"""What the bench sends in each protocol's envelope, to a real server, and the rows made of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from starlette.types import Receive, Scope, Send

from rayserve_app.app import create_app
from rayserve_app.bench import pictures
from rayserve_app.bench.connection import Answer
from rayserve_app.bench.envelopes import BOUNDARY, all_envelopes
from rayserve_app.bench.figures import gateway
from rayserve_app.bench.framework_loop import load_model
from rayserve_app.bench.load import Target, closed_loop, fetch
from tests.servers import raw_server, serving

APP_YAML = Path(__file__).parents[2] / "configs" / "app.yaml"
SIDE = 40
IMAGE = pictures.png(SIDE)
ENVELOPES = {each.name: each for each in all_envelopes(IMAGE, "image/png", "image-example")}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    model = load_model(APP_YAML, "image-example")
    model.warm_up()
    app = create_app(model)

    async def below_prefix(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "root_path": "/image-example"}, receive, send)

    with serving(below_prefix) as port:
        yield f"http://127.0.0.1:{port}/image-example"
    model.close()


@pytest.mark.parametrize("name", ENVELOPES)
async def test_each_envelope_holds_the_image(name: str, url: str) -> None:
    answer = await fetch(ENVELOPES[name].target(url))
    assert answer.status == 200
    assert ENVELOPES[name].read(answer) == [SIDE, SIDE]


@pytest.mark.parametrize("name", ENVELOPES)
async def test_what_repeats_has_the_same_answer_twice(name: str, url: str) -> None:
    target = ENVELOPES[name].target(url)
    first, second = await fetch(target), await fetch(target)
    assert gateway.are_alike(first, second) == ENVELOPES[name].repeats


async def test_envelopes_are_carried_by_the_load_generator(url: str) -> None:
    (name,) = (name for name in ENVELOPES if name.startswith("binary tensor"))
    load = await closed_loop(ENVELOPES[name].target(url), connections=2, seconds=0.1)
    assert load.errors == 0
    assert load.rate > 10


def test_the_form_is_what_requests_sends() -> None:
    (name,) = (name for name in ENVELOPES if name.startswith("form"))
    files = {"images": ("image", IMAGE, "image/png")}
    prepared = requests.Request("POST", "http://server/", files=files).prepare()
    boundary = prepared.headers["Content-Type"].partition("boundary=")[2]
    assert isinstance(prepared.body, bytes)
    assert ENVELOPES[name].body == prepared.body.replace(boundary.encode(), BOUNDARY.encode())


async def test_a_whole_answer_has_its_headers_and_body() -> None:
    wire = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nX-One: a b\r\n\r\nbody, and more"
    with raw_server(wire) as (port, received):
        target = Target.post(
            f"http://127.0.0.1:{port}/a/b", b"x", "text/plain", headers={"X-Two": "2"}
        )
        answer = await fetch(target)
    assert (answer.status, answer.body) == (404, b"body")
    assert answer.headers == {"content-length": "4", "x-one": "a b"}
    head, _, body = received[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /a/b HTTP/1.1\r\n")
    assert b"\r\nX-Two: 2" in head
    assert body == b"x"


def answer(status: int, content_type: str, date: str, body: bytes) -> Answer:
    head = f"HTTP/1.1 {status} OK\r\nContent-Type: {content_type}\r\nDate: {date}".encode()
    return Answer(status, head, len(body), body)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (answer(200, "a/b", "later", b"x"), True),
        (answer(201, "a/b", "now", b"x"), False),
        (answer(200, "c/d", "now", b"x"), False),
        (answer(200, "a/b", "now", b"y"), False),
    ],
)
def test_answers_are_alike_if_only_the_request_differs(other: Answer, expected: bool) -> None:
    assert gateway.are_alike(answer(200, "a/b", "now", b"x"), other) == expected
