"""What stands before Serve: headers that it does not see, and who gets it."""

from __future__ import annotations

from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
import uvicorn

from deployments.internals import connection
from deployments.internals.accounts import find_accounts
from deployments.internals.connection import Shortcut
from deployments.internals.middleware import (
    Ingress,
    IngressDeployment,
    http_middlewares,
    is_own_server,
)
from rayserve_app.gateway.deadlines import Deadlines
from rayserve_app.settings.model import LimitSettings
from rayserve_app.web.messages import Request as OwnRequest


def headers_seen(scope: Any) -> dict[bytes, bytes]:
    return dict(scope["headers"])


async def through(scope: dict[str, Any]) -> dict[str, Any]:
    """Return the scope that Serve gets to see."""
    seen: list[Any] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    async def nothing(*_: Any) -> None:
        return

    await Ingress(serve)(scope, nothing, nothing)  # type: ignore[arg-type]
    return dict(seen[0])


def http_scope(*headers: tuple[bytes, bytes], method: str = "POST") -> dict[str, Any]:
    return {"type": "http", "method": method, "headers": list(headers)}


@pytest.mark.parametrize("value", [b"?1", b"?0", b"x"])
async def test_clients_do_not_steer_serve(value: bytes) -> None:
    scope = await through(
        http_scope(
            (b"x-request-timeout-seconds", b"0"),
            (b"x-request-disconnect-disabled", value),
            (b"serve_multiplexed_model_id", b"m"),
        )
    )
    assert headers_seen(scope) == {b"x-request-disconnect-disabled": b"?1"}


async def test_serve_sees_what_names_and_traces_a_request() -> None:
    known = [(b"x-request-id", b"7"), (b"traceparent", b"00-1-2-01"), (b"tracestate", b"a=b")]
    scope = await through(http_scope(*known))
    assert headers_seen(scope).items() >= dict(known).items()


async def test_the_app_sees_all_headers() -> None:
    scope = await through(http_scope((b"accept", b"text/csv"), (b"x-request-id", b"7")))
    request = OwnRequest(scope, lambda: None, LimitSettings())  # type: ignore[arg-type]
    assert (request.header("accept"), request.header("x-request-id")) == ("text/csv", "7")
    assert request.header("x-request-disconnect-disabled") is None


async def test_what_is_not_http_passes_as_it_is() -> None:
    scope = {"type": "lifespan"}
    assert await through(scope) == {"type": "lifespan"}


@pytest.mark.parametrize("port", [8510, 30000, 30500])
async def test_views_go_to_the_replicas_own_server_alone_whatever_the_ports(port: int) -> None:
    """Serve's Python proxy, whose scopes say where it listens, pickles what it is sent."""
    server = ("127.0.0.1", port)
    scope = {"type": "http", "server": server, "root_path": "", "headers": []}
    assert is_own_server(dict(scope)) is False
    seen: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(is_own_server(scope))

    await Ingress(app)(dict(scope), AsyncMock(), AsyncMock())
    exchange, accounts = MagicMock(request_id=None), MagicMock(prefix="", begin=AsyncMock())
    await Shortcut(app, accounts).answer(exchange, {**scope, "method": "GET"}, app, app)
    assert seen == [True, True]


async def app(scope: Any, receive: Any, send: Any) -> None:
    return


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """What says which connections the servers of this process are to have."""
    monkeypatch.setattr(connection, "use_connections", used := MagicMock())
    return used


def test_only_replicas_of_ours_answer_past_serve(
    monkeypatch: pytest.MonkeyPatch, used: MagicMock
) -> None:
    assert [each.cls for each in http_middlewares()] == [Deadlines]
    used.assert_not_called()
    monkeypatch.setattr(IngressDeployment, "app", staticmethod(app))
    assert [middleware.cls for middleware in http_middlewares()] == [Ingress]
    used.assert_called_once_with(app, find_accounts)


def test_versions_that_were_not_tested_take_serves_way(
    monkeypatch: pytest.MonkeyPatch, used: MagicMock
) -> None:
    monkeypatch.setattr(IngressDeployment, "app", staticmethod(app))
    monkeypatch.setattr(uvicorn, "__version__", "0.99.0")
    assert [middleware.cls for middleware in http_middlewares()] == [Ingress]
    used.assert_not_called()
