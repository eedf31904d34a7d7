"""The fixed ports that Serve opens in HAProxy mode, and who holds one that is taken.

Serve itself finds out late: HAProxy fails to start again and again while the models load.
"""

from __future__ import annotations

import errno
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from rayserve_app.errors import ConfigurationError
from rayserve_app.operations.server import haproxy
from rayserve_app.operations.server.haproxy_config import LOOPBACK, METRICS_HOST_VARIABLE
from rayserve_app.operations.server.settings import ServeConfig
from rayserve_app.settings.section import shown

COMMAND_LINE_WIDTH = 160


@dataclass(frozen=True)
class Port:
    """A port that Serve will listen on, and the setting that moves it."""

    number: int
    purpose: str
    setting: str
    host: str = "0.0.0.0"


def serve_ports(config: ServeConfig, environment: Mapping[str, str]) -> list[Port]:
    """All ports that are fixed before Serve starts; replicas choose theirs themselves."""
    ports = [Port(config.http_port, "HTTP", "http_options.port", config.http_host)]
    if config.grpc_port is not None:
        ports.append(Port(config.grpc_port, "gRPC", "grpc_options.port", config.http_host))
    if environment.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
        return ports
    # Serve lets HAProxy open them to everybody; our launcher does not.
    is_launched = environment.get(haproxy.VARIABLE, "") == haproxy.launcher()
    haproxys = LOOPBACK if is_launched else "0.0.0.0"
    metrics = environment.get(METRICS_HOST_VARIABLE, LOOPBACK) if is_launched else haproxys
    host = config.http_host
    own = [
        ("RAY_SERVE_HAPROXY_STATS_PORT", 8404, "HAProxy's statistics", haproxys),
        ("RAY_SERVE_HAPROXY_METRICS_PORT", 9101, "HAProxy's metrics", metrics),
        ("RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", 8500, "Serve's fallback proxy, HTTP", host),
    ]
    if config.grpc_port is not None:
        purpose = "Serve's fallback proxy, gRPC"
        own.append(("RAY_SERVE_FALLBACK_PROXY_GRPC_PORT", 9500, purpose, host))
    for variable, default, purpose, on in own:
        ports.append(Port(_port_number(environment, variable, default), purpose, variable, on))
    return ports


def _port_number(environment: Mapping[str, str], variable: str, default: int) -> int:
    text = environment.get(variable, str(default))
    if text.isdecimal() and len(text) < 6 and 0 < int(text) < 65536:
        return int(text)
    raise ConfigurationError(
        f"{variable} is not a port", expected="a number from 1 to 65535", got=shown(text)
    )


def is_taken(port: Port) -> bool:
    """Whether the port cannot be bound, tried as HAProxy will."""
    family = socket.AF_INET6 if ":" in port.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # Connections of an earlier run that linger in TIME_WAIT are no obstacle.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((port.host, port.number))
        except (OSError, TypeError, ValueError) as error:  # the others: no host can be called so
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                return True
            raise ConfigurationError(
                f"Port {port.number} ({port.purpose}) cannot be bound on {shown(port.host)}",
                got=getattr(error, "strerror", None) or str(error),
                remedy=f"Set {port.setting} or http_options.host",
            ) from error
    return False


def describe_taken(port: Port) -> str:
    """One line: which port, held by whom, and what to do."""
    return (
        f"Port {port.number} ({port.purpose}) is taken by {_describe_owner(port.number)}. "
        f"Stop that, or set {port.setting}."
    )


def _describe_owner(number: int) -> str:
    for connection in psutil.net_connections("tcp"):
        is_owner = (
            connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port == number
            and connection.pid is not None
        )
        if is_owner:
            return describe_process(psutil.Process(connection.pid))
    return "a process that this user cannot see"


def describe_process(process: psutil.Process) -> str:
    """Number, name and command line of a process, cut to one line of the screen or two."""
    try:
        name, command = process.name(), shlex.join(process.cmdline())
    except psutil.Error:
        return f"pid {process.pid}"
    if len(command) > COMMAND_LINE_WIDTH:
        command = command[: COMMAND_LINE_WIDTH - 1] + "…"
    return f"pid {process.pid}, {name}: {command}"
