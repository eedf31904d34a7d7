"""Repetitions, time-outs and errors, against servers that fail and then answer."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp, Receive, Scope, Send

from rayserve_app import errors
from rayserve_app.app import create_app
from rayserve_app.client import AsyncClient
from rayserve_app.client.answers import Answer
from rayserve_app.client.errors import ConnectionFailed, TimedOut, UnexpectedAnswer
from rayserve_app.client.exchange import (
    Attempt,
    Flow,
    Outcome,
    Patience,
    Pause,
    Request,
    Step,
    exchange,
)
from rayserve_app.errors import (
    ConfigurationError,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    NotAcceptable,
    Overloaded,
    PredictError,
    RequestTooLarge,
    ServingError,
    Unavailable,
    UnsupportedContentType,
)
from rayserve_app.web.messages import STATUS
from tests.client import Connect, Served, Watched
from tests.protocols import create_model
from tests.protocols.servers import mount
from tests.servers import raw_server, serving

VECTOR = np.array([1.5, 2.5])


class Failing:
    """An app before a model's own that answers its first predictions with failures."""

    def __init__(self, app: ASGIApp, *failures: tuple[int, dict[str, str], bytes]) -> None:
        self._app = app
        self._failures = list(failures)
        self.seen_at: list[float] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            self.seen_at.append(time.monotonic())
            if self._failures:
                await self._fail(*self._failures.pop(0), send)
                return
        await self._app(scope, receive, send)

    async def _fail(self, status: int, headers: dict[str, str], body: bytes, send: Send) -> None:
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


@contextmanager
def failing(*failures: int | tuple[int, dict[str, str], bytes]) -> Iterator[tuple[str, Failing]]:
    """Serve a model that doubles vectors, after these failures."""
    model = create_model(lambda items: [2 * item for item in items], input={"type": "doubles"})
    told = [each if isinstance(each, tuple) else (each, {}, b"") for each in failures]
    app = Failing(mount(create_app(model), "/m"), *told)
    try:
        with serving(app) as port:
            yield f"http://127.0.0.1:{port}/m", app
    finally:
        model.close()


@contextmanager
def served_app(app: ASGIApp) -> Iterator[Served]:
    watched = Watched(app)
    with serving(watched) as port:
        yield Served(f"http://127.0.0.1:{port}/m", watched)


def free_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/m"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_succeed_later_is_sent_again(connect: Connect, status: int) -> None:
    with failing(status, status) as (url, app):
        assert connect(url).predict(VECTOR) == [3, 5]
        assert len(app.seen_at) == 3


@pytest.mark.parametrize("status", [400, 404, 406, 413, 415, 422, 500, 501])
def test_what_will_fail_again_is_not(connect: Connect, status: int) -> None:
    with failing(status) as (url, app):
        with pytest.raises(ServingError):
            connect(url).predict(VECTOR)
        assert len(app.seen_at) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, InvalidRequest),
        (404, ModelNotFound),
        (406, NotAcceptable),
        (413, RequestTooLarge),
        (415, UnsupportedContentType),
        (429, Overloaded),
        (500, PredictError),
        (502, Unavailable),
        (503, Unavailable),
        (504, DeadlineExceeded),
        (301, UnexpectedAnswer),
        (501, UnexpectedAnswer),
    ],
)
def test_a_status_is_an_error_with_the_servers_sentence(
    connect: Connect, status: int, kind: type[ServingError]
) -> None:
    failure = (status, {"content-type": "application/json"}, b'{"error": "No cats today"}')
    with failing(failure) as (url, _), pytest.raises(kind, match="No cats today") as told:
        connect(url, retries=0).predict(VECTOR)
    assert type(told.value) is kind


@pytest.mark.parametrize("error", STATUS)
def test_a_client_knows_every_status_of_the_server(error: type[ServingError]) -> None:
    known = Answer(STATUS[error], {}, bytearray(b"Bad")).error()
    assert known is not None
    related = (errors.VersionNotFound, errors.BackendError, errors.ConfigurationError)
    assert isinstance(known, error) or error in related


@pytest.mark.parametrize(
    ("media_type", "body", "sentence"),
    [
        ("text/plain", b"Full\n", "Full"),
        ("text/plain", b"a" * 1000, "a" * 500),
        ("text/html", b"<h1>503</h1>", "Service Unavailable"),
        ("application/json", b'{"detail": "no"}', '{"detail": "no"}'),
        ("application/json", b"{", "{"),
        ("application/json", b"\xff", "�"),
        ("", b"", "Service Unavailable"),
    ],
)
def test_other_servers_are_told_as_far_as_they_say_something(
    media_type: str, body: bytes, sentence: str
) -> None:
    answer = Answer(503, {"content-type": media_type}, bytearray(body))
    assert str(answer.error()) == sentence


def test_the_last_error_is_raised_after_all_retries(connect: Connect) -> None:
    with failing(503, 502, 429, 200) as (url, app):
        with pytest.raises(Overloaded) as told:
            connect(url, retries=2).predict(VECTOR)
        assert told.value.__notes__ == [f"POST {url}/invocations, 3 attempts"]
        assert len(app.seen_at) == 3


def test_retry_after_is_waited_for(connect: Connect) -> None:
    with failing((503, {"retry-after": "1"}, b"")) as (url, app):
        assert connect(url).predict(VECTOR) == [3, 5]
        assert app.seen_at[1] - app.seen_at[0] >= 1


@pytest.mark.parametrize(
    ("value", "least_s", "most_s"),
    [
        ("120", 120, 120),
        (formatdate(time.time() + 1e6, usegmt=True), 9e5, 1e6),
        (formatdate(time.time() - 1e6, usegmt=True), 0, 0),
    ],
    ids=["seconds", "later", "before"],
)
def test_retry_after_is_in_seconds_or_a_date(value: str, least_s: float, most_s: float) -> None:
    asked_s = Answer(503, {"retry-after": value}, bytearray()).retry_after_s
    assert asked_s is not None
    assert least_s <= asked_s <= most_s


@pytest.mark.parametrize("value", ["", "soon", "-1", "1.5", "Tue, 99 Nov 2026 25:00:00 GMT"])
def test_a_retry_after_that_says_nothing_is_ignored(value: str) -> None:
    assert Answer(503, {"retry-after": value}, bytearray()).retry_after_s is None


def test_a_pause_beyond_the_time_out_is_not_begun(connect: Connect) -> None:
    with failing((503, {"retry-after": "60"}, b"Loading")) as (url, _):
        started_at = time.monotonic()
        with pytest.raises(Unavailable, match="Loading") as told:
            connect(url, timeout_s=20).predict(VECTOR)
        assert time.monotonic() - started_at < 10
    assert told.value.retry_after_s == 60


def test_a_refused_connection_is_tried_again_and_told(connect: Connect) -> None:
    url = free_url()
    with pytest.raises(ConnectionFailed, match="connection failed") as told:
        connect(url, retries=2).predict(VECTOR)
    assert told.value.__notes__ == [f"GET {url}, 3 attempts"]
    assert isinstance(told.value, Unavailable)
    assert isinstance(told.value.__cause__, httpx.ConnectError)


CUT = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"na'


@pytest.mark.parametrize("answer", [b"", CUT, b"nonsense\r\n\r\n"], ids=["none", "cut", "nonsense"])
def test_a_connection_that_breaks_is_made_again(connect: Connect, answer: bytes) -> None:
    with raw_server(answer, answer) as (port, received):
        with pytest.raises(ConnectionFailed):
            connect(f"http://127.0.0.1:{port}/m", retries=1).describe()
        assert [each.split(b" ")[0] for each in received] == [b"GET", b"GET"]


def test_a_server_that_closes_in_the_middle_and_then_answers(connect: Connect) -> None:
    body = b'{"ready": true}'
    whole = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
    with (
        raw_server(CUT, whole % (len(body), body)) as (port, _),
        pytest.raises(UnexpectedAnswer, match="Not the description of a model"),
    ):
        connect(f"http://127.0.0.1:{port}/m", retries=1).describe()


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(30)


async def dripping(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(300):
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("app", [silent, dripping])
def test_no_answer_takes_longer_than_the_time_out(connect: Connect, app: ASGIApp) -> None:
    with served_app(app) as server:
        started_at = time.monotonic()
        with pytest.raises(TimedOut, match=r"No answer within 0\.5 s") as told:
            connect(server.url, timeout_s=0.5).describe()
        assert 0.4 < time.monotonic() - started_at < 10
        assert len(server.watched.requests) == 1
    assert isinstance(told.value, DeadlineExceeded)


def test_a_page_of_html_is_no_answer(connect: Connect) -> None:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"<h1>It works!</h1>"})

    with served_app(page) as server, pytest.raises(UnexpectedAnswer, match="got 'text/html'"):
        connect(server.url).describe()


def test_a_content_coding_that_is_none_is_no_answer(connect: Connect) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-encoding", b"gzip")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"not gzip"})

    with served_app(broken) as server, pytest.raises(UnexpectedAnswer, match="cannot be read"):
        connect(server.url).describe()


@pytest.mark.parametrize("url", ["", "m", "ftp://host/m", "http:///m", "http://host:port/m"])
def test_what_is_no_url_is_refused(connect: Connect, url: str) -> None:
    with pytest.raises(ConfigurationError, match="at `url`"):
        connect(url)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("concurrency", (0, -1, 2.0, "4", True, None, math.nan)),
        ("max_items", (0, -1, 2.5, "4", True, math.inf)),
        ("retries", (-1, 1.0, "3", True, None)),
        ("timeout_s", (0, -1, math.nan, math.inf, 1e10, "5", True, None)),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_before_anything_is_asked(
    connect: Connect, name: str, values: Sequence[Any]
) -> None:
    for value in values:
        with pytest.raises(ConfigurationError, match=f"No such {name}: .* at `{name}`"):
            connect("http://127.0.0.1:1/m", **{name: value})


def test_numbers_may_be_numpys(connect: Connect) -> None:
    numbers = {"concurrency": np.int64(1), "max_items": np.int32(1), "retries": np.uint8(0)}
    with failing() as (url, _):
        client = connect(url, timeout_s=np.float32(20), **numbers)
        assert client.predict(VECTOR) == [3, 5]


def test_the_callers_own_transport_is_used_and_left_open() -> None:
    async def use(url: str) -> Any:
        async with httpx.AsyncClient(headers={"x-key": "7"}) as http:
            async with AsyncClient(url, http_client=http) as client:
                await client.predict(VECTOR)
            assert not http.is_closed

    model = create_model(lambda items: list(items), input={"type": "doubles"})
    with served_app(mount(create_app(model), "/m")) as server:
        asyncio.run(use(server.url))
        assert {each.headers["x-key"] for each in server.watched.requests} == {"7"}
    model.close()


def test_a_password_in_the_url_is_sent_and_not_told(connect: Connect) -> None:
    with failing(400) as (url, _), pytest.raises(InvalidRequest) as told:
        connect(url.replace("//", "//me:secret@")).predict(VECTOR)
    assert told.value.__notes__ == [f"POST {url}/invocations, 1 attempt"]


def test_a_model_is_ready_or_not(connect: Connect) -> None:
    for is_warm in (True, False):
        model = create_model(list, input={"type": "doubles"}, is_warm=is_warm)
        with served_app(mount(create_app(model), "/m")) as server:
            assert connect(server.url).ready() is is_warm
        model.close()
    assert connect(free_url()).ready() is False


def test_waiting_ends_when_the_model_is_ready(connect: Connect) -> None:
    model = create_model(list, input={"type": "doubles"}, is_warm=False)
    app = mount(create_app(model), "/m")
    asked = 0

    async def starting(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += 1
        model.is_warm = asked > 3
        if asked > 2:
            await app(scope, receive, send)
            return
        status = {1: 404, 2: 503}[asked]
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with served_app(starting) as server:
        connect(server.url).wait_until_ready(timeout_s=30)
    assert asked == 4
    model.close()


def test_waiting_for_nobody_ends_in_time(connect: Connect) -> None:
    with pytest.raises(ModelNotReady, match=r"not ready after 0\.6 s") as told:
        connect(free_url()).wait_until_ready(timeout_s=0.6)
    assert isinstance(told.value.__cause__, ConnectionFailed)


REQUEST = Request("POST", httpx.URL("http://server/m"), "application/json")
CONNECT_ERROR = httpx.ConnectError("refused")
OUTCOMES = st.sampled_from(
    [Answer(503, {"retry-after": "2"}, bytearray()), Answer(502, {}, bytearray()), CONNECT_ERROR]
)


@given(st.lists(OUTCOMES, min_size=1, max_size=12), st.integers(0, 8))
def test_no_request_is_sent_more_often_than_it_may_be(
    outcomes: list[Outcome], retries: int
) -> None:
    steps = list(follow(exchange(REQUEST, Patience(1000, retries)), outcomes))
    pauses = [step.seconds for step in steps if isinstance(step, Pause)]
    attempts = len(steps) - len(pauses)
    assert attempts == min(retries, len(outcomes)) + 1
    for index, pause_s in enumerate(pauses):
        outcome = outcomes[index]
        asked_s = 2 if isinstance(outcome, Answer) and outcome.status == 503 else 0
        assert asked_s < pause_s <= asked_s + min(10, 0.1 * 2**index)


def follow(flow: Flow[Answer], outcomes: list[Outcome]) -> Iterator[Step]:
    """Send a flow these outcomes, and then success; yield its steps to the end."""
    remaining = iter([*outcomes, Answer(200, {}, bytearray())])
    step = next(flow)
    try:
        while True:
            yield step
            step = flow.send(next(remaining) if isinstance(step, Attempt) else None)
    except (Unavailable, StopIteration):
        return


def test_a_failed_list_ends_at_once_and_sends_no_more(connect: Connect) -> None:
    ended = threading.Event()

    async def fail_or_hang(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await app(scope, receive, send)
            return
        if len(server.watched.predictions) > 1:
            while not ended.is_set():
                await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    model = create_model(list, input={"type": "bytes"})
    app = mount(create_app(model), "/m")
    with served_app(fail_or_hang) as server:
        with pytest.raises(PredictError) as told:
            connect(server.url, concurrency=3).predict([b"1"] * 1000)
        ended.set()
        assert told.value.path.startswith("images[")
        assert len(server.watched.predictions) <= 6
    model.close()
