"""Serve's gRPC servers, which listen on all interfaces, held to loopback where Ray is there too.

Ray 2.60 binds them to `[::]`, whatever the node's address: the server by which deployments call a
replica and which unpickles what it is sent (`Replica._on_initialized`,
ray/serve/_private/replica.py), and those for clients of gRPC (`start_grpc_server`,
ray/serve/_private/grpc_util.py), which have HAProxy before them. Where replicas are called from
other nodes, Ray's token is what shuts the first, and a firewall the second. So it is, everywhere,
for replicas that take no HTTP, in which nothing of ours runs.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final

import ray

EVERYWHERE: Final = "[::]:"


def hold_to_loopback() -> None:
    """Hold the servers that this process starts from now on, if its node is on loopback.

    Raises:
        ImportError, AttributeError: Serve starts them another way.
    """
    node: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    if not ip_address(node).is_loopback:
        return
    from ray.serve._private import default_impl, replica
    from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY

    replica.add_port_to_grpc_server = _held(  # type: ignore[attr-defined]
        replica.add_port_to_grpc_server  # type: ignore[attr-defined]
    )
    if RAY_SERVE_ENABLE_HA_PROXY:
        default_impl.add_grpc_address = _held(default_impl.add_grpc_address)


def _held(bind: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that takes a server and an address, and gives it one of loopback."""

    def held(*args: Any, **kwargs: Any) -> Any:
        return bind(*map(_on_loopback, args), **{k: _on_loopback(v) for k, v in kwargs.items()})

    return held


def _on_loopback(value: Any) -> Any:
    return value.replace(EVERYWHERE, "127.0.0.1:") if isinstance(value, str) else value
