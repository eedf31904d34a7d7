"""One answer of several models: the same in whatever order they are asked."""

from __future__ import annotations

import json
from itertools import permutations
from typing import Any

import httpx
import pytest

from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.merging import Answer, merge_answers
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from tests.gateway.test_gateway import answer as send_answer
from tests.gateway.test_gateway import closed_port
from tests.servers import serving

JSON = {"content-type": "application/json"}


def told(status: int, value: Any) -> Answer:
    return Answer(status, json.dumps(value).encode(), JSON)


CHALLENGE = Answer(401, b"password", {"www-authenticate": "Basic"})


@pytest.mark.parametrize(
    ("answers", "status", "value"),
    [
        ([told(200, ["a"]), told(200, ["b"]), told(404, {})], 200, ["a", "b"]),
        ([told(200, ["a"]), CHALLENGE, told(400, {"error": "?"})], 200, ["a"]),
        ([told(200, {"ready": True}), told(200, {"ready": False})], 200, {"ready": False}),
        (
            [told(200, {"ready": True}), told(503, {"error": "a"}), told(503, {"code": 1})],
            503,
            {"code": 1, "error": "a"},
        ),
        # Models of unlike protocols.
        ([told(200, {"a": 1}), told(200, [1]), told(200, {"b": 2})], 200, {"a": 1, "b": 2}),
        ([told(200, {"a": 1}), Answer(200, b"# text")], 200, {"a": 1}),
        ([told(404, {"e": 1}), told(405, {"e": 2})], 405, {"e": 2}),
        ([told(404, {"e": 1}), told(400, {"e": 2}), told(405, {"e": 3})], 400, {"e": 2}),
    ],
)
def test_the_order_of_models_plays_no_part(answers: list[Answer], status: int, value: Any) -> None:
    merged = [merge_answers(order) for order in permutations(answers)]
    assert {(each.status, each.body) for each in merged} == {(merged[0].status, merged[0].body)}
    assert (merged[0].status, json.loads(merged[0].body)) == (status, value)


def test_where_all_ask_for_a_password_the_client_is_asked() -> None:
    for order in permutations([CHALLENGE, told(404, {}), told(405, {})]):
        merged = merge_answers(order).response()
        assert (merged.status, merged.headers["www-authenticate"]) == (401, "Basic")


def naming(*, password: bool = False) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        name = scope["path"].split("/")[1]
        if password and (b"authorization", b"Basic eDp5") not in scope["headers"]:
            await send_answer(send, 401, b"Need basic auth", [(b"www-authenticate", b"Basic")])
        else:
            await send_answer(send, 200, json.dumps([{"model_name": name}]).encode())

    return app


def test_one_models_password_closes_no_list_for_all() -> None:
    directory = Directory()
    with (
        serving(naming()) as open_port,
        serving(naming(password=True)) as closed,
        serving(Gateway(GatewaySettings(), directory)) as port,
    ):
        url = f"http://127.0.0.1:{port}/v1/models"
        open_model = ServedModel("open", "/open", (Address("127.0.0.1", open_port),))
        secret = ServedModel("secret", "/secret", (Address("127.0.0.1", closed),))
        directory.update([open_model, secret])
        assert httpx.get(url).json() == [{"model_name": "open"}]
        with_password = httpx.get(url, auth=("x", "y"))
        assert with_password.json() == [{"model_name": "open"}, {"model_name": "secret"}]
        assert "x-rayserve-model" not in with_password.headers
        directory.update([secret])
        refused = httpx.get(url)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Basic")


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_the_server_describes_itself_with_all_models(method: str) -> None:
    """As Multi Model Server does, OpenAPI 3.0.1 by either way."""
    directory = Directory()
    with serving(Gateway(GatewaySettings(), directory)) as port:
        path = "/api-description" if method == "GET" else "/"
        for names in ([], ["a"], ["a", "b"]):
            directory.update(ServedModel(name, f"/{name}", ()) for name in names)
            document = httpx.request(method, f"http://127.0.0.1:{port}{path}").json()
            assert document["openapi"] == "3.0.1"
            (parameter,) = document["paths"]["/predictions/{model_name}"]["parameters"]
            assert parameter["schema"].get("enum", []) == names


def test_who_loads_a_model_is_found_whoever_else_refuses() -> None:
    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        await send_answer(send, 405, b"{}")

    async def loading(scope: Any, receive: Any, send: Any) -> None:
        await send_answer(send, 200, b"{}")

    directory = Directory()
    with (
        serving(refusing) as first,
        serving(loading) as second,
        serving(Gateway(GatewaySettings(), directory)) as port,
    ):
        url = f"http://127.0.0.1:{port}/models"
        directory.update(
            ServedModel(name, f"/{name}", (Address("127.0.0.1", each),))
            for name, each in {"a": first, "b": second}.items()
        )
        fields = {"model_name": "hash", "url": "s3://bucket/b"}
        assert httpx.post(url, json=fields).status_code == 200
        directory.update([ServedModel("a", "/a", (Address("127.0.0.1", first),))])
        assert httpx.post(url, json=fields).status_code == 405


def test_a_model_that_is_lost_is_told_by_its_protocol() -> None:
    directory = Directory()
    with serving(Gateway(GatewaySettings(), directory)) as port:
        directory.update([ServedModel("a", "/a", (Address("127.0.0.1", closed_port()),))])
        answer = httpx.get(f"http://127.0.0.1:{port}/v2/health/ready", timeout=20)
        assert answer.status_code == 503
        assert "'a'" in answer.json()["error"]
