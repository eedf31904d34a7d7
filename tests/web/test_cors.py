"""What a browser lets pages from elsewhere do with a model and a gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rayserve_app.app import App, create_app
from rayserve_app.errors import ConfigurationError
from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.settings.protocols import PROTOCOLS
from rayserve_app.settings.section import parse_section
from rayserve_app.web.scope import CLIENT_HEADERS
from tests.protocols import call, create_model
from tests.servers import serving

PAGE = "https://page.example"

REQUESTS: list[tuple[str, str, bytes, int]] = [
    ("GET", "/", b"", 200),
    ("GET", "/openapi.json", b"", 200),
    ("POST", "/predict", b'{"input": "a"}', 200),
    ("POST", "/predict", b"{", 400),
    ("POST", "/invocations", b'"a"', 200),
    ("POST", "/endpoints/m/invocations", b'"a"', 200),
    ("POST", "/v1/models/m:predict", b'{"instances": ["a"]}', 200),
    ("POST", "/v1/models/n:predict", b"{}", 404),
    ("GET", "/v2/models/m", b"", 200),
    ("POST", "/v2/models/m/infer", b"{}", 400),
    ("POST", "/", b'{"data": {"string": ["a"]}}', 200),
    ("POST", "/predictions/m", b'"a"', 200),
    ("GET", "/metrics", b"", 200),
    ("GET", "/nowhere", b"", 404),
    ("DELETE", "/predict", b"", 405),
]


def create(**settings: Any) -> App:
    return create_app(create_model(list, input={"type": "string"}, **settings))


def is_shared(response: httpx.Response, page: str, header: str = "content-type") -> bool:
    """Whether a browser shows the answer to a page, with this header of it (Fetch standard, "CORS
    check", "CORS-exposed header-name")."""
    origins = response.headers.get_list("access-control-allow-origin")
    exposed = response.headers.get("access-control-expose-headers", "").lower().split(", ")
    return origins in (["*"], [page]) and (header == "content-type" or exposed == ["*"])


def may_send(response: httpx.Response, page: str, method: str, headers: str) -> bool:
    """Whether a browser goes on after a preflight (Fetch standard, "CORS-preflight fetch")."""
    allowed = {
        name: [part.strip() for part in response.headers.get(name, "").split(",")]
        for name in ("access-control-allow-methods", "access-control-allow-headers")
    }
    return (
        response.is_success
        and is_shared(response, page)
        and method in allowed["access-control-allow-methods"]
        and set(headers.split(",")) <= set(allowed["access-control-allow-headers"])
    )


def preflight(page: str = PAGE, method: str = "POST") -> dict[str, str]:
    return {
        "origin": page,
        "access-control-request-method": method,
        "access-control-request-headers": "authorization,content-type",
    }


async def ask(app: App, method: str, path: str, body: bytes) -> httpx.Response:
    headers = {"origin": PAGE, "content-type": "application/json"}
    return await call(app, method, path, content=body, headers=headers)


@pytest.mark.parametrize(("method", "path", "body", "status"), REQUESTS)
async def test_nothing_is_shared_unless_the_model_says_so(
    method: str, path: str, body: bytes, status: int
) -> None:
    app = create()
    response = await ask(app, method, path, body)
    assert response.status_code == status, response.text
    asked = await call(app, "OPTIONS", path, headers=preflight())
    for each in (response, asked):
        assert not [name for name in each.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(("method", "path", "body", "status"), REQUESTS)
@pytest.mark.parametrize("origins", [["*"], ["https://other.example", PAGE]])
async def test_every_answer_is_shared_with_the_pages_that_the_model_names(
    method: str, path: str, body: bytes, status: int, origins: list[str]
) -> None:
    app = create(cors={"origins": origins})
    response = await ask(app, method, path, body)
    assert response.status_code == status, response.text
    assert is_shared(response, PAGE, "x-request-id")
    assert "origin" in response.headers["vary"].lower()
    asked = await call(app, "OPTIONS", path, headers=preflight(method=method))
    assert may_send(asked, PAGE, method, "authorization,content-type")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_setting_is_the_same_for_every_protocol(protocol: str) -> None:
    for origins in ([], [PAGE]):
        app = create(protocols=[protocol], **({"cors": {"origins": origins}} if origins else {}))
        for _, path, body, _ in REQUESTS:
            asked = await call(app, "OPTIONS", path, headers=preflight())
            answers = [await ask(app, "POST", path, body), asked]
            assert [is_shared(each, PAGE) for each in answers] == [bool(origins)] * 2


async def test_other_pages_are_told_nothing() -> None:
    app = create(cors={"origins": ["https://page.example:8443", "http://page.example"]})
    assert not is_shared(await ask(app, "POST", "/predict", b'{"input": "a"}'), PAGE)
    asked = await call(app, "OPTIONS", "/predict", headers=preflight())
    assert not may_send(asked, PAGE, "POST", "content-type")


async def test_a_client_that_is_no_browser_gets_its_answer() -> None:
    app = create(cors={"origins": [PAGE]})
    response = await call(app, "POST", "/invocations", json="a")
    assert (response.status_code, response.content) == (200, b'"a"')
    assert "access-control-allow-origin" not in response.headers
    # Caches are not to hand this answer to a browser.
    assert response.headers["vary"] == "Origin"


async def test_headers_that_are_kept_from_serve_are_seen() -> None:
    app = create(cors={"origins": [PAGE]})
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(name.encode(), value.encode()) for name, value in preflight().items()]
    scope = {"type": "http", "method": "OPTIONS", "path": "/m/predict", "root_path": "/m"}
    await app({**scope, "headers": [], CLIENT_HEADERS: headers}, receive, send)
    assert dict(sent[0]["headers"])[b"access-control-allow-origin"] == PAGE.encode()


@pytest.mark.parametrize(
    "origins",
    [[], ["page.example"], [f"{PAGE}/"], ["https://page.example/a"], ["HTTPS://a"], [""], [5], "*"],
)
@pytest.mark.parametrize("key", ["gateway"])
def test_what_no_browser_sends_as_an_origin_is_refused(origins: Any, key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_section(GatewaySettings, {key: {"cors": {"origins": origins}}}, key)
    assert caught.value.path.startswith(f"args.{key}.cors.origins")


@pytest.fixture(params=[None, "*", PAGE], ids=["none", "any", "page"])
def gateway(request: pytest.FixtureRequest) -> Iterator[tuple[str | None, httpx.Client]]:
    """What a gateway shares, and a client of it; the model behind shares with all."""
    model = create(cors={"origins": ["*"]})

    async def replica(scope: Any, receive: Any, send: Any) -> None:
        root = {"root_path": "/m"} if scope["type"] == "http" else {}
        await model({**scope, **root}, receive, send)

    cors = None if request.param is None else {"origins": [request.param]}
    settings = GatewaySettings.model_validate({"cors": cors, "default_model": "m"})
    directory = Directory()
    with serving(replica) as port:
        directory.update([ServedModel("m", "/m", (Address("127.0.0.1", port),))])
        with (
            serving(Gateway(settings, directory)) as own,
            httpx.Client(base_url=f"http://127.0.0.1:{own}", timeout=20) as client,
        ):
            yield request.param, client


def test_a_gateway_shares_what_its_own_setting_says(
    gateway: tuple[str | None, httpx.Client],
) -> None:
    setting, client = gateway
    headers = {"origin": PAGE, "content-type": "application/json"}
    for method, path, body, status in REQUESTS:
        response = client.request(method, path, content=body, headers=headers)
        assert response.status_code == status, (path, response.text)
        assert response.headers.get_list("access-control-allow-origin") == (
            [] if setting is None else [setting]
        )
        asked = client.request("OPTIONS", path, headers=preflight(method=method))
        assert may_send(asked, PAGE, method, "content-type") == (setting is not None)
