"""Headers that the gateway's own server writes: there is one of each in an answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from deployments.internals.middleware import Ingress
from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from tests.servers import serving

ID = b"x-request-id"


async def tell_id(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the identifiers that a request has, in the body and in as many headers."""
    ids = [value for name, value in scope["headers"] if name == ID]
    body = b",".join(ids)
    headers = [*((ID, each) for each in ids), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def identifying(app: Any) -> Any:
    """Give each request an identifier unless it has one, and tell it in the answer, as Serve's
    middleware does."""

    async def identified(scope: Any, receive: Any, send: Any) -> None:
        own = dict(scope["headers"]).get(ID)
        if own is None:
            own = b"serves"
            scope["headers"] = [*scope["headers"], (ID, own)]

        async def tell(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (ID, own)]
            await send(message)

        await app(scope, receive, tell)

    return identified


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with serving(tell_id) as port:
        directory = Directory()
        directory.update([ServedModel("m", "/m", (Address("127.0.0.1", port),))])
        yield Gateway(GatewaySettings(protocols=("sagemaker",)), directory)


def ask(app: Any, headers: dict[str, str]) -> httpx.Response:
    with serving(app) as port:
        url = f"http://127.0.0.1:{port}/invocations"
        return httpx.post(url, content=b"abc", headers=headers)


def test_an_answer_has_one_date_and_one_server(gateway: Gateway) -> None:
    headers = ask(gateway, {}).headers
    assert [len(headers.get_list(name)) for name in ("date", "server")] == [1, 1]


@pytest.mark.parametrize(
    ("sent", "expected"), [({}, "serves"), ({"x-request-id": "theirs"}, "theirs")]
)
def test_within_serve_gateway_and_replica_share_one_identifier(
    gateway: Gateway, sent: dict[str, str], expected: str
) -> None:
    answer = ask(Ingress(identifying(gateway)), sent)
    assert answer.text == expected
    assert answer.headers.get_list("x-request-id") == [expected]


def test_outside_serve_identifiers_pass_as_they_are(gateway: Gateway) -> None:
    answer = ask(gateway, {"x-request-id": "theirs"})
    assert answer.headers.get_list("x-request-id") == ["theirs"]
