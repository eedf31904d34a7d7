"""What the bench sends in each protocol's envelope, to a real server, and the rows made of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from starlette.types import Receive, Scope, Send

from rayserve_app.app import create_app
from rayserve_app.bench import pictures
from rayserve_app.bench.answer import WholeAnswer, fetch
from rayserve_app.bench.applications import GATEWAY, build_config
from rayserve_app.bench.envelopes import BOUNDARY, all_envelopes
from rayserve_app.bench.figures import gateway, protocols
from rayserve_app.bench.framework_loop import load_model
from rayserve_app.bench.load import Load, Target, closed_loop
from rayserve_app.bench.rounds import take_turns
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
    assert answer == WholeAnswer(404, {"content-length": "4", "x-one": "a b"}, b"body")
    head, _, body = received[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /a/b HTTP/1.1\r\n")
    assert b"\r\nX-Two: 2" in head
    assert body == b"x"


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (WholeAnswer(200, {"content-type": "a/b", "date": "later"}, b"x"), True),
        (WholeAnswer(201, {"content-type": "a/b", "date": "now"}, b"x"), False),
        (WholeAnswer(200, {"content-type": "c/d", "date": "now"}, b"x"), False),
        (WholeAnswer(200, {"content-type": "a/b", "date": "now"}, b"y"), False),
    ],
)
def test_answers_are_alike_if_only_the_request_differs(other: WholeAnswer, expected: bool) -> None:
    answer = WholeAnswer(200, {"content-type": "a/b", "date": "now"}, b"x")
    assert gateway.are_alike(answer, other) == expected


async def test_many_things_take_turns() -> None:
    called: list[str] = []

    async def measure(name: str) -> str:
        called.append(name)
        return f"{name}{len(called)}"

    measures = [lambda name=name: measure(name) for name in "ABC"]
    assert await take_turns(2, measures) == [("A1", "A4"), ("B2", "B5"), ("C3", "C6")]
    assert "".join(called) == "ABCABC"


def load(rate: int, latency_s: float = 0.01) -> Load:
    return Load([latency_s] * rate, 0, 0, 1.0, 0.1)


def test_protocols_are_reported_against_the_raw_body() -> None:
    names = ["raw body", "base64 JSON, X", "form upload"]
    loads = [[load(100), load(200)], [load(80), load(120)], [load(50), load(100)]]
    raw, base64_json, form = protocols.rows("1 KB", names, loads)
    assert (raw.measured, raw.unit, raw.target) == (150, "/s", None)
    assert (base64_json.case, base64_json.unit) == ("1 KB as base64 JSON, X", "x raw body")
    assert base64_json.measured == pytest.approx(0.7)
    assert base64_json.target == ("at least", protocols.LEAST_RATIO)
    assert form.measured == 0.5
    assert form.target is None
    assert form.details["p50_ms"] == 10


def test_the_gateway_is_reported_by_what_it_adds_and_by_what_it_keeps() -> None:
    pairs = [(load(100, 0.001), load(40, 0.002)), (load(100, 0.001), load(60, 0.003))]
    alone = gateway.row("one", pairs, 1)
    assert (alone.unit, alone.target) == ("ms added", ("at most", gateway.MOST_ADDED_MS))
    assert alone.measured == pytest.approx(1.5)
    assert alone.details["ratio"] == pytest.approx(0.5)
    many = gateway.row("many", pairs, gateway.CONNECTIONS)
    assert (many.unit, many.target) == ("x direct", ("at least", gateway.LEAST_RATIO))
    assert many.measured == pytest.approx(0.5)
    assert many.details["added_ms"] == pytest.approx(1.5)


def test_the_gateway_stands_at_the_root_before_the_model() -> None:
    names = gateway.FIGURE.applications
    model, own = build_config(names, APP_YAML, 1234, Path("nowhere"))["applications"]
    assert (own["name"], own["route_prefix"]) == (GATEWAY, "/")
    assert own["args"] == {"gateway": {"default_model": model["name"]}}
