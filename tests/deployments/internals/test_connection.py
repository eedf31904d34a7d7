"""Connections of a replica: answers as uvicorn's own, whichever way a request takes, and Serve's
accounts of those that do not pass it."""

from __future__ import annotations

import re
import socket
import threading
import time
import uuid
from asyncio.selector_events import _SelectorSocketTransport  # type: ignore[attr-defined]
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from deployments.internals.connection import MAX_JOINED_BYTES, MAX_WAITING_BYTES, Connections
from deployments.internals.middleware import Ingress
from rayserve_app.settings.model import LimitSettings
from rayserve_app.web.messages import Request as OwnRequest
from tests.servers import serving

LEFT = threading.Event()


async def echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


async def large(request: Request) -> Response:
    return Response(b"a" * (MAX_JOINED_BYTES + 1))


async def stream(request: Request) -> Response:
    async def pieces() -> Any:
        for number in range(3):
            yield f"{number}"

    return StreamingResponse(pieces())


async def empty(request: Request) -> Response:
    return Response(status_code=204)


async def closing(request: Request) -> Response:
    return PlainTextResponse("bye", headers={"connection": "close"})


async def failing(request: Request) -> Response:
    raise RuntimeError("before the head")


async def waiting(request: Request) -> Response:
    LEFT.clear()
    try:
        await request.body()
    except ClientDisconnect:
        LEFT.set()
    return Response()


ROUTES = [
    Route("/a/echo", echo, methods=["POST", "GET"]),
    Route("/a/large", large),
    Route("/a/stream", stream),
    Route("/a/empty", empty),
    Route("/a/closing", closing),
    Route("/a/failing", failing),
    Route("/a/waiting", waiting, methods=["POST"]),
]

STARLETTE = Starlette(routes=ROUTES)

HEADS: dict[str, list[tuple[bytes, bytes]]] = {
    "/a/head-only": [(b"content-length", b"4")],
    "/a/too-long": [(b"content-length", b"3")],
    "/a/too-short": [(b"content-length", b"5")],
    "/a/split-value": [(b"content-length", b"4"), (b"x", b"1\r\nset-cookie: stolen")],
    "/a/two-lengths": [(b"content-length", b"4"), (b"content-length", b"2")],
    "/a/control-value": [(b"content-length", b"4"), (b"x", b"a\x01b")],
    "/a/delete-value": [(b"content-length", b"4"), (b"x", b"a\x7fb")],
    "/a/null-value": [(b"content-length", b"4"), (b"x", b"\0")],
    "/a/odd-name": [(b"content-length", b"4"), (b"x y", b"1")],
}
"""Of answers that go wrong, by path; all have a body of four bytes."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] not in HEADS:
        # Starlette would take `root_path` off the path.
        await STARLETTE({**scope, "root_path": ""}, receive, send)
        return
    headers = HEADS[scope["path"]]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/a/head-only":
        raise RuntimeError("after the head")
    await send({"type": "http.response.body", "body": b"body"})


async def serve(scope: Any, receive: Any, send: Any) -> None:
    """What a request gets that takes the usual way, where it is to be told from the other."""
    await PlainTextResponse("Serve")(scope, receive, send)


class Books:
    """Accounts on paper."""

    def __init__(self) -> None:
        self.prefix = "/a"
        self.are_enough = True
        self.begun = 0
        self.ended: list[tuple[str, int, str | None]] = []

    async def begin(self) -> None:
        self.begun += 1

    def end(self, method: str, status: int, started_at: float, error: str | None) -> None:
        assert 0 <= time.perf_counter() - started_at < 60
        self.ended.append((method, status, error))

    def wait_for(self, count: int) -> list[tuple[str, int, str | None]]:
        """Return what was counted out, once it is so many."""
        give_up_at = time.monotonic() + 10
        while len(self.ended) < count and time.monotonic() < give_up_at:
            time.sleep(0.01)
        return self.ended


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    """Servers of one app: uvicorn's own connections, ours past Serve, ours by the usual way."""
    none: Callable[[Any], None] = lambda _: None  # noqa: E731
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(serving(app, keep_alive_s=1, loop="asyncio", http=http))
            for name, http in (
                ("uvicorn", "auto"),
                ("short", Connections(app, lambda _: Books())),
                ("usual", Connections(serve, none)),
            )
        }


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture
def url(books: Books) -> Iterator[str]:
    """The address of a server that keeps these books."""
    with serving(Ingress(serve), http=Connections(app, lambda _: books)) as port:
        yield f"http://127.0.0.1:{port}"


def exchange(port: int, *pieces: bytes) -> bytes:
    """Send these on one connection and return all that comes until the server closes it."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
        received = b""
        while data := connection.recv(1 << 16):
            received += data
    return received


def comparable(answer: bytes) -> bytes:
    """Return an answer without what differs each time, or is ours alone to say."""
    answer = re.sub(rb"date: [^\r]*\r\n", b"", answer)
    return re.sub(rb"x-request-id: [^\r]*\r\n", b"", answer)


def request(line: str, *headers: str, body: bytes = b"", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{line} HTTP/{version}", *headers, "", ""]).encode("latin-1") + body


HOST = "Host: x"
TWO = "Content-Length: 2"
CHUNKED = "Transfer-Encoding: chunked"
CHUNKS = b"3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\nTrailer: 1\r\n\r\n"

CONVERSATIONS = {
    "get": request("GET /a/echo", HOST),
    "post": request("POST /a/echo?x=1&y=%20", HOST, TWO, body=b"hi"),
    "escaped path": request("POST /a/%65cho", HOST, TWO, body=b"hi"),
    "absolute form": request("POST http://x/a/echo", HOST, TWO, body=b"hi"),
    "chunked": request("POST /a/echo", HOST, CHUNKED, body=CHUNKS),
    "expect": request("POST /a/echo", HOST, "Expect: 100-continue", TWO, body=b"hi"),
    "head": request("HEAD /a/echo", HOST),
    "head of a stream": request("HEAD /a/stream", HOST),
    "stream": request("GET /a/stream", HOST),
    "empty": request("GET /a/empty", HOST),
    "large": request("GET /a/large", HOST),
    "no such path": request("GET /a/none", HOST),
    "no such method": request("DELETE /a/echo", HOST),
    "old": request("POST /a/echo", TWO, body=b"hi", version="1.0"),
    "old, kept alive": request(
        "POST /a/echo", "Connection: keep-alive", TWO, body=b"hi", version="1.0"
    ),
    "close": request("POST /a/echo", HOST, "Connection: close", TWO, body=b"hi"),
    "another protocol": request("GET /a/echo", HOST, "Connection: Upgrade", "Upgrade: h2c"),
    "no request": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "two lengths": request("POST /a/echo", TWO, "Content-Length: 3", body=b"hi"),
    "length and chunks": request("POST /a/echo", TWO, CHUNKED, body=CHUNKS),
    "odd path": request("GET /a/\xff", HOST),
    "two lengths of an answer": request("GET /a/two-lengths", HOST),
    "asterisk": request("OPTIONS *", HOST),
    "failing": request("GET /a/failing", HOST),
}

LAST = request("GET /a/closing", HOST)


@pytest.mark.parametrize("way", ["short", "usual"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_request_gets_what_uvicorn_would_answer(
    ports: dict[str, int], way: str, name: str
) -> None:
    sent = CONVERSATIONS[name] + LAST
    expected = comparable(exchange(ports["uvicorn"], sent))
    assert expected.startswith(b"HTTP/1.1 ")
    assert comparable(exchange(ports[way], sent)) == expected


REPEATABLE = ("get", "post", "chunked", "expect", "head", "stream", "empty", "large")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    names=st.lists(st.sampled_from(REPEATABLE), min_size=1, max_size=5),
    cuts=st.lists(st.integers(1, 400), max_size=6),
    way=st.sampled_from(["short", "usual"]),
)
def test_requests_come_in_any_pieces_one_behind_the_other(
    ports: dict[str, int], names: list[str], cuts: list[int], way: str
) -> None:
    sent = b"".join(CONVERSATIONS[name] for name in names) + LAST
    places = sorted({0, *(cut for cut in cuts if cut < len(sent)), len(sent)})
    pieces = [sent[start:end] for start, end in pairwise(places)]
    expected = exchange(ports["uvicorn"], sent)
    assert comparable(exchange(ports[way], *pieces)) == comparable(expected)


@pytest.mark.parametrize("way", ["short", "usual"])
@pytest.mark.parametrize("size", [0, 1, MAX_JOINED_BYTES, MAX_WAITING_BYTES + 1, 5_000_000])
def test_bodies_of_any_size_pass_whole(ports: dict[str, int], way: str, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    with httpx.Client() as client:
        for _ in range(2):
            answer = client.post(f"http://127.0.0.1:{ports[way]}/a/echo", content=body[:size])
            assert (answer.status_code, answer.content) == (200, body[:size])


@pytest.mark.parametrize("way", ["short", "usual"])
@pytest.mark.parametrize("path", ["/a/head-only", "/a/too-long", "/a/too-short"])
def test_an_answer_that_goes_wrong_closes_the_connection(
    ports: dict[str, int], way: str, path: str
) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://127.0.0.1:{ports[way]}{path}", timeout=5)


@pytest.mark.parametrize("way", ["short", "usual"])
@pytest.mark.parametrize(
    "path",
    ["/a/split-value", "/a/null-value", "/a/control-value", "/a/delete-value", "/a/odd-name"],
)
def test_a_header_that_is_none_is_not_sent(ports: dict[str, int], way: str, path: str) -> None:
    answer = httpx.get(f"http://127.0.0.1:{ports[way]}{path}")
    assert answer.status_code == 500
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("way", ["short", "usual"])
def test_an_app_learns_that_its_client_has_left(ports: dict[str, int], way: str) -> None:
    LEFT.clear()
    with socket.create_connection(("127.0.0.1", ports[way])) as connection:
        connection.sendall(b"POST /a/waiting HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
        time.sleep(0.1)
    assert LEFT.wait(5)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What transports have been told to write, call by call."""
    calls: list[bytes] = []
    write = _SelectorSocketTransport.write

    def count(transport: Any, data: Any) -> None:
        calls.append(bytes(data))
        write(transport, data)

    monkeypatch.setattr(_SelectorSocketTransport, "write", count)
    return calls


@pytest.mark.parametrize("way", ["short", "usual"])
def test_an_answer_is_written_at_once(ports: dict[str, int], writes: list[bytes], way: str) -> None:
    with httpx.Client() as client:
        for number in range(3):
            url = f"http://127.0.0.1:{ports[way]}/a/echo"
            assert client.post(url, content=f"body {number}").text == f"body {number}"
    answers = [data for data in writes if data.startswith(b"HTTP/1.1 200")]
    assert [data[-6:] for data in answers] == [b"body 0", b"body 1", b"body 2"]


def test_a_large_body_is_not_copied_to_its_head(ports: dict[str, int], writes: list[bytes]) -> None:
    answer = httpx.get(f"http://127.0.0.1:{ports['short']}/a/large")
    assert len(answer.content) == MAX_JOINED_BYTES + 1
    assert MAX_JOINED_BYTES + 1 in map(len, writes)


def test_what_passes_serve_is_kept_account_of(url: str, books: Books) -> None:
    httpx.post(f"{url}/a/echo", content="x")
    httpx.get(f"{url}/a/none")
    httpx.get(f"{url}/a/failing")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{url}/a/too-short")
    assert books.wait_for(4) == [
        ("POST", 200, None),
        ("GET", 404, None),
        ("GET", 500, "RuntimeError"),
        ("GET", 200, "RuntimeError"),
    ]
    assert books.begun == 4


@pytest.mark.parametrize("path", ["/b", "/", "/-/healthz", "/-/routes"])
def test_what_is_not_the_apps_goes_to_serve(url: str, books: Books, path: str) -> None:
    assert httpx.get(f"{url}{path}").text == "Serve"
    assert books.begun == 0


def test_what_serve_has_to_do_with_goes_to_serve(url: str, books: Books) -> None:
    with httpx.Client() as client:
        assert client.post(f"{url}/a/echo", content="x").text == "x"
        books.are_enough = False
        assert client.post(f"{url}/a/echo", content="x").text == "Serve"
        books.are_enough = True
        assert client.post(f"{url}/a/echo", content="x").text == "x"
    assert books.begun == 2


def test_an_app_below_the_root_gets_all_but_serves_own_paths(url: str, books: Books) -> None:
    books.prefix = "/"
    assert httpx.get(f"{url}/b").status_code == 404
    assert httpx.get(f"{url}/-/healthz").text == "Serve"
    assert books.begun == 1


def test_another_server_of_the_process_keeps_its_own_app(books: Books) -> None:
    replica = Ingress(serve)
    connections = Connections(app, lambda outer: books if outer.app is replica else None)
    with serving(replica, http=connections) as port, serving(serve, http=connections) as other:
        assert httpx.post(f"http://127.0.0.1:{port}/a/echo", content="x").text == "x"
        assert httpx.post(f"http://127.0.0.1:{other}/a/echo", content="x").text == "Serve"


def test_an_unnamed_request_gets_a_name_of_its_own(url: str) -> None:
    with httpx.Client() as client:
        names = {client.get(f"{url}/a/{n}").headers["x-request-id"] for n in range(20)}
    assert len({uuid.UUID(name) for name in names}) == 20


def test_a_named_request_keeps_its_name(url: str) -> None:
    answer = httpx.get(f"{url}/a/echo", headers={"x-request-id": "theirs"})
    assert answer.headers.get_list("x-request-id") == ["theirs"]


def test_the_app_sees_what_it_would_see_behind_serve(books: Books) -> None:
    seen: list[Any] = []

    async def own(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await PlainTextResponse("")(scope, receive, send)

    with serving(Ingress(serve), http=Connections(own, lambda _: books)) as port:
        httpx.get(f"http://127.0.0.1:{port}/a/b%2Fc?d=%20", headers={"accept": "text/csv"})
    (scope,) = seen
    own_request = OwnRequest(scope, lambda: None, LimitSettings())  # type: ignore[arg-type]
    assert (scope["root_path"], scope["path"]) == ("/a", "/a/b/c")
    assert (own_request.method, own_request.query()) == ("GET", [("d", " ")])
    assert own_request.header("accept") == "text/csv"
    assert [name for name, _ in scope["headers"]] == [b"x-request-id"]
