"""What stands before Serve in a replica of ours, in others and in Serve's proxies."""

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
