"""The gateway in front of real servers: what it forwards, to whom, and what becomes of failures."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request

from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from tests.servers import raw_server, serving

LARGE = b"0123456789abcdef" * 200_000

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

left = threading.Event()


async def replica(scope: Any, receive: Any, send: Any) -> None:
    """Tells what it was asked, with the status and the headers that the query asks for."""
    request = Request(scope, receive)
    try:
        body = await request.body()
    except ClientDisconnect:
        return
    if scope["path"].endswith("/invoke"):
        await answer(send, 200, LARGE)
        return
    seen = {
        "method": scope["method"],
        "raw_path": scope["raw_path"].decode(),
        "query": scope["query_string"].decode(),
        "headers": [[k.decode(), v.decode()] for k, v in scope["headers"]],
        "size": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    status = int(request.query_params.get("status", "200"))
    await answer(send, status, json.dumps(seen).encode(), [(b"x-own", b"1"), (b"x-own", b"2")])


async def answer(send: Any, status: int, body: bytes, headers: Any = ()) -> None:
    length = (b"content-length", str(len(body)).encode())
    head = {"type": "http.response.start", "status": status, "headers": [*headers, length]}
    await send(head)
    await send({"type": "http.response.body", "body": body})


class Setup:
    """A gateway that forwards to the addresses that a test gives."""

    def __init__(self) -> None:
        self.directory = Directory()

    def serve(self, **models: list[int]) -> None:
        self.directory.update(
            ServedModel(name, f"/{name}", tuple(Address("127.0.0.1", port) for port in ports))
            for name, ports in models.items()
        )


@pytest.fixture(scope="module")
def replica_port() -> Iterator[int]:
    with serving(replica) as port:
        yield port


@pytest.fixture
def setup(replica_port: int) -> Setup:
    made = Setup()
    made.serve(m=[replica_port])
    return made


@pytest.fixture
def client(setup: Setup) -> Iterator[httpx.Client]:
    settings = GatewaySettings(protocols=("clipper", "sagemaker"), default_model="m")
    with (
        serving(Gateway(settings, setup.directory)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        yield client


def test_a_request_is_forwarded_as_it_came(client: httpx.Client) -> None:
    headers = {"x-a": "b", "te": "trailers", "connection": "keep-alive", "accept": "text/csv"}
    response = client.post("/invocations?a=%20b&c", content=b"body", headers=headers)
    seen = response.json()
    assert (seen["method"], seen["raw_path"], seen["query"]) == (
        "POST",
        "/m/invocations",
        "a=%20b&c",
    )
    assert seen["sha256"] == hashlib.sha256(b"body").hexdigest()
    names = [name for name, _ in seen["headers"]]
    assert {"x-a", "accept", "host", "x-rayserve-forwarded"} <= set(names)
    assert not {"te", "connection", "transfer-encoding"} & set(names)
    assert dict(seen["headers"])["host"] == client.base_url.netloc.decode()


def test_headers_that_a_client_names_as_its_hops_own_go_no_further(client: httpx.Client) -> None:
    """RFC 9110, section 7.6.1; a length that is named so frames nothing any more."""
    headers = {"connection": "keep-alive, X-Hop , content-length", "x-hop": "1", "x-a": "b"}
    seen = client.post("/invocations", content=b"body", headers=headers).json()
    names = [name for name, _ in seen["headers"]]
    assert "x-a" in names
    assert not {"x-hop", "connection"} & set(names)
    assert seen["size"] == 4


def test_an_answer_comes_back_as_it_is(client: httpx.Client) -> None:
    response = client.post("/invocations?status=418", content=b"")
    assert response.status_code == 418
    assert response.headers.get_list("x-own") == ["1", "2"]


def test_a_body_without_a_length_is_streamed(client: httpx.Client) -> None:
    pieces = [LARGE[:70_000], b"x", LARGE[:100]]
    seen = client.post("/invocations", content=iter(pieces)).json()
    assert seen["sha256"] == hashlib.sha256(b"".join(pieces)).hexdigest()


def test_large_bodies_pass_both_ways(client: httpx.Client) -> None:
    seen = client.post("/invocations", content=LARGE).json()
    assert (seen["size"], seen["sha256"]) == (len(LARGE), hashlib.sha256(LARGE).hexdigest())
    assert client.post("/models/m/invoke", content=b"").content == LARGE


def test_an_answer_may_come_before_the_body_ends(setup: Setup, client: httpx.Client) -> None:
    with serving(refusing) as port:
        setup.serve(m=[port])
        for _ in range(3):
            response = client.post("/invocations", content=LARGE)
            assert (response.status_code, response.content) == (413, b"too large")


async def refusing(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, 413, b"too large", [(b"connection", b"close")])


def test_an_encoded_path_is_taken_decoded_and_sent_encoded(
    setup: Setup, replica_port: int, client: httpx.Client
) -> None:
    setup.directory.update([ServedModel("a b", "/a b", (Address("127.0.0.1", replica_port),))])
    seen = client.get("/models/a%20b").json()
    assert seen["raw_path"] == "/a%20b/models/a%20b"


@pytest.mark.parametrize("header", ["x-rayserve-forwarded", "x-rayserve-gateways"])
def test_a_client_cannot_say_that_its_request_is_forwarded(
    client: httpx.Client, header: str
) -> None:
    answer = client.post("/invocations", content=b"", headers={header: "theirs"})
    assert answer.status_code == 200
    seen = answer.json()["headers"]
    # Which protocols may answer is the gateway's to say.
    assert [value for name, value in seen if name == "x-rayserve-forwarded"] == [
        "clipper,sagemaker"
    ]


def test_what_comes_back_is_not_forwarded_again(setup: Setup) -> None:
    """Straight, and through another gateway: `/m/predict` is a path of Clipper's at each."""
    directories = Directory(), Directory()
    settings = GatewaySettings(protocols=("clipper",))
    with (
        serving(Gateway(settings, directories[0])) as first,
        serving(Gateway(settings, directories[1])) as second,
    ):
        for back in (first, second):
            directories[0].update([ServedModel("m", "/m", (Address("127.0.0.1", back),))])
            directories[1].update([ServedModel("m", "/m", (Address("127.0.0.1", first),))])
            response = httpx.post(f"http://127.0.0.1:{first}/m/predict", json={}, timeout=20)
            assert response.status_code == 508


def test_head_has_no_body(client: httpx.Client) -> None:
    response = client.head("/ping")
    assert (response.status_code, response.content) == (200, b"")
    assert client.get("/ping").json()["method"] == "GET"


def test_a_path_without_a_name_means_the_default_model(client: httpx.Client) -> None:
    assert client.get("/ping").json()["raw_path"] == "/m/ping"


def test_an_unknown_model_is_answered_with_the_known(client: httpx.Client) -> None:
    response = client.post("/models/x/invoke", content=b"")
    assert response.status_code == 404
    assert response.json() == {"error": "No model 'x'. Models: m"}


def test_clippers_paths_reach_models_of_other_prefixes(client: httpx.Client) -> None:
    assert client.post("/m/predict", content=b"{}").json()["raw_path"] == "/m/predict"


def test_other_paths_and_verbs_are_refused(client: httpx.Client) -> None:
    assert client.get("/nothing").status_code == 404
    response = client.put("/invocations")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_the_root_lists_models_for_programs_and_browsers(client: httpx.Client) -> None:
    assert client.get("/").json()["models"] == [{"name": "m", "path": "/m", "ready": True}]
    page = client.get("/", headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert '<a href="/m">m</a>' in page.text


def test_a_model_without_replicas_is_not_ready(setup: Setup, client: httpx.Client) -> None:
    setup.serve(m=[])
    response = client.get("/ping")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_a_replica_that_is_gone_is_passed_over(
    setup: Setup, replica_port: int, client: httpx.Client
) -> None:
    setup.serve(m=[closed_port(), replica_port])
    for content in (b"a", LARGE):
        assert client.post("/invocations", content=content).json()["size"] == len(content)


def test_a_small_request_goes_to_another_replica_when_its_own_is_lost(
    setup: Setup, client: httpx.Client
) -> None:
    with raw_server(b"") as (dying, received), raw_server(OK) as (living, again):
        setup.serve(m=[dying, living])
        assert client.post("/invocations", content=b"abc").text == "ok"
        assert [each.endswith(b"abc") for each in received + again] == [True, True]


def test_it_is_sent_twice_at_most(setup: Setup, client: httpx.Client) -> None:
    with raw_server(b"", b"", b"") as (port, received):
        setup.serve(m=[port])
        assert client.post("/invocations", content=b"abc").status_code == 503
        assert len(received) == 2


def test_a_large_request_is_not_repeated(setup: Setup, client: httpx.Client) -> None:
    lost = raw_server(b"", b"", after_bytes=2_000_000)
    with lost as (dying, received), raw_server(OK) as (living, again):
        setup.serve(m=[dying, living])
        assert client.post("/invocations", content=LARGE).status_code == 503
        assert (len(received), again) == (1, [])


def test_an_answer_that_ends_too_soon_is_not_repeated(setup: Setup, client: httpx.Client) -> None:
    half = OK.replace(b"length: 2", b"length: 9")
    with raw_server(half, half) as (port, received):
        setup.serve(m=[port])
        with pytest.raises(httpx.RemoteProtocolError):
            client.post("/invocations", content=b"abc")
        assert len(received) == 1


def test_what_is_no_http_is_no_answer(setup: Setup, client: httpx.Client) -> None:
    with raw_server(b"SSH-2.0\r\n\r\n", b"SSH-2.0\r\n\r\n") as (port, _):
        setup.serve(m=[port])
        assert client.post("/invocations", content=b"abc").status_code == 503


def test_a_connection_that_the_replica_has_closed_is_opened_again(
    setup: Setup, client: httpx.Client
) -> None:
    with serving(replica, keep_alive_s=1) as port:
        setup.serve(m=[port])
        for _ in range(2):
            assert client.post("/invocations", content=b"abc").json()["size"] == 3
            time.sleep(1.2)


def test_a_client_that_leaves_is_told_to_the_replica(setup: Setup, client: httpx.Client) -> None:
    left.clear()
    with serving(waiting) as port:
        setup.serve(m=[port])
        with pytest.raises(httpx.ReadTimeout):
            client.post("/invocations", content=b"abc", timeout=0.3)
        assert left.wait(5)


async def waiting(scope: Any, receive: Any, send: Any) -> None:
    """Never answers; tells when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
    left.set()


async def test_requests_go_to_the_replica_with_the_fewest_under_way(
    setup: Setup, client: httpx.Client
) -> None:
    busy: list[int] = [0, 0]

    def counting(index: int) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            busy[index] += 1
            await asyncio.sleep(0.3)
            await answer(send, 200, b"ok")

        return app

    with serving(counting(0)) as first, serving(counting(1)) as second:
        setup.serve(m=[first, second])
        async with httpx.AsyncClient(base_url=client.base_url, timeout=20) as several:
            asked = [several.post("/invocations", content=b"abc") for _ in range(8)]
            answers = await asyncio.gather(*asked)
    assert [each.text for each in answers] == ["ok"] * 8
    assert busy == [4, 4]


def test_models_that_come_and_go_are_known_at_once(
    setup: Setup, replica_port: int, client: httpx.Client
) -> None:
    setup.serve(other=[replica_port])
    assert client.get("/ping").status_code == 404
    assert client.post("/models/other/invoke", content=b"").status_code == 200


@pytest.fixture
def reading(setup: Setup, replica_port: int) -> Iterator[httpx.Client]:
    """A gateway that finds the model in JSON, with small limits."""
    settings = GatewaySettings(
        protocols=("simple_tensorflow_serving",),
        default_model="m",
        max_read_mb=0.5,
        max_buffered_mb=0.6,
        body_timeout_s=0.5,
    )
    setup.serve(m=[replica_port], other=[replica_port])
    with (
        serving(Gateway(settings, setup.directory)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("body", "prefix"),
    [
        ({"model_name": "other", "data": {}}, "/other/"),
        ({"model_name": "default"}, "/m/"),
        ({"data": {}}, "/m/"),
        ([1], "/m/"),
    ],
)
def test_json_names_its_model(reading: httpx.Client, body: Any, prefix: str) -> None:
    for _ in range(3):
        assert reading.post("/", json=body).json()["raw_path"] == prefix


def test_json_that_names_an_unknown_model_is_refused_in_the_protocols_words(
    reading: httpx.Client,
) -> None:
    response = reading.post("/", json={"model_name": "nope"})
    assert response.status_code == 400
    assert response.json() == {
        "error": "Invalid model name: nope, available models: ['m', 'other']"
    }


def test_bodies_that_are_read_are_bounded(reading: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    assert reading.post("/", content=b" " * 600_000, headers=headers).status_code == 413
    # What was held has been given back.
    assert reading.post("/", content=b" " * 400_000, headers=headers).status_code == 200
    assert reading.post("/", content=b" " * 400_000, headers=headers).status_code == 200


def test_a_body_that_does_not_come_is_given_up(reading: httpx.Client) -> None:
    with socket.create_connection((reading.base_url.host, reading.base_url.port or 0)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n")
        client.settimeout(10)
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_what_speaks_of_the_whole_server_is_asked_of_all_models(setup: Setup) -> None:
    async def models(scope: Any, receive: Any, send: Any) -> None:
        name = scope["path"].split("/")[1]
        await answer(send, 200, json.dumps({"models": [name], "ready": True}).encode())

    async def missing(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, 404, b"{}")

    async def cold(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, 503, b'{"ready": false}')

    with serving(models) as port, serving(missing) as other, serving(cold) as third:
        setup.serve(a=[port], b=[port], c=[other])
        settings = GatewaySettings(protocols=("sagemaker", "open_inference"))
        with serving(Gateway(settings, setup.directory)) as gateway:
            url = f"http://127.0.0.1:{gateway}"
            assert httpx.get(f"{url}/models").json() == {"models": ["a", "b"], "ready": True}
            setup.serve(a=[port], d=[third])
            response = httpx.get(f"{url}/v2/health/ready")
            assert (response.status_code, response.json()) == (503, {"ready": False})


def test_a_further_name_of_a_model_is_asked_for_and_kept(setup: Setup) -> None:
    async def knowing(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, 200, scope["path"].encode())

    async def another(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, 404, b'{"error": "No such model"}')

    with serving(another) as first, serving(knowing) as second:
        setup.serve(a=[first], b=[second])
        with serving(Gateway(GatewaySettings(protocols=("sagemaker",)), setup.directory)) as port:
            url = f"http://127.0.0.1:{port}/models"
            fields = {"model_name": "hash", "url": "s3://bucket/b"}
            assert httpx.get(f"{url}/hash").status_code == 404
            assert httpx.post(url, json=fields).text == "/b/models"
            assert httpx.post(f"{url}/hash/invoke").text == "/b/models/hash/invoke"
            taken = {"model_name": "a", "url": "s3://bucket/b"}
            assert httpx.post(url, json=taken).status_code == 409
            assert httpx.post(f"{url}/a/invoke").status_code == 404
            setup.serve(a=[first])
            assert httpx.post(url, json=fields).status_code == 404
            assert httpx.post(f"{url}/hash/invoke").status_code == 404
