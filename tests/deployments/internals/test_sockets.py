"""Serve's gRPC servers on loopback; the last test notices when Ray binds them another way."""

from __future__ import annotations

import asyncio
import inspect
import os
from typing import Any

import psutil
import pytest
import ray
from ray._common import tls_utils
from ray.serve._private import constants, default_impl, grpc_util, replica
from ray.serve._private.replica import Replica
from ray.serve.config import gRPCOptions

from deployments.internals.sockets import hold_to_loopback


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "add_port_to_grpc_server", tls_utils.add_port_to_grpc_server)
    monkeypatch.setattr(default_impl, "add_grpc_address", default_impl.add_grpc_address)
    monkeypatch.setattr(constants, "RAY_SERVE_ENABLE_HA_PROXY", True)


def new_addresses(before: set[Any]) -> set[str]:
    connections = {each for each in listening() if each not in before}
    return {each.laddr.ip for each in connections}


def listening() -> set[Any]:
    connections = psutil.Process(os.getpid()).net_connections("tcp")
    return {each for each in connections if each.status == psutil.CONN_LISTEN}


def never(**_: object) -> None:
    return None


@pytest.mark.parametrize(
    ("node", "expected"), [("127.0.0.1", {"::ffff:127.0.0.1"}), ("192.0.2.2", {"::"})]
)
def test_grpc_listens_where_the_node_is(
    monkeypatch: pytest.MonkeyPatch, node: str, expected: set[str]
) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: node)
    hold_to_loopback()
    hold_to_loopback()

    async def serve() -> tuple[set[str], set[str]]:
        from ray._private.grpc_utils import create_grpc_server_with_interceptors

        before = listening()
        server = create_grpc_server_with_interceptors(asynchronous=True)
        replica.add_port_to_grpc_server(server, "[::]:0")
        await server.start()
        between, called = listening(), new_addresses(before)
        task, clients = await grpc_util.start_grpc_server(
            never, gRPCOptions(port=0), event_loop=asyncio.get_running_loop()
        )
        asked = new_addresses(between)
        await clients.stop(None)
        await server.stop(None)
        await task
        return called, asked

    assert asyncio.run(serve()) == (expected, expected)


def test_a_proxy_of_serves_own_stays_where_clients_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(constants, "RAY_SERVE_ENABLE_HA_PROXY", False)
    before = default_impl.add_grpc_address
    hold_to_loopback()
    assert default_impl.add_grpc_address is before


def test_ray_binds_them_as_it_is_known_here() -> None:
    source = inspect.getsource(Replica)
    assert source.count('add_port_to_grpc_server(self._server, "[::]:0")') == 1
    assert source.index("await self._maybe_start_direct_ingress_servers()") < source.index(
        "add_port_to_grpc_server("
    )
    source = inspect.getsource(grpc_util.start_grpc_server)
    assert 'add_grpc_address(server, f"[::]:{grpc_options.port}")' in source
    assert "import add_grpc_address" in source
