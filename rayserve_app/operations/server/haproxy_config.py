"""What becomes of HAProxy's configuration, as Serve writes it, on its way to HAProxy.

Source: ray/serve/_private/haproxy_templates.py, Ray 2.60; HAProxy's configuration manual 2.8,
`bind` and `stats socket`.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import Final, NamedTuple

METRICS_HOST_VARIABLE: Final = "RAYSERVE_HAPROXY_METRICS_HOST"
"""Where HAProxy's metrics listen, if not on loopback: Prometheus may be on another machine."""

LOOPBACK: Final = "127.0.0.1"

SECTION: Final = re.compile(r"(?:frontend|listen) (\S+)")
BIND: Final = re.compile(r"(\s*bind )(\S*):(\d+)(?=\s|$)")
ADMIN_SOCKET: Final = re.compile(r"(\s*stats socket )(\S+)( mode )\d+", re.MULTILINE)
SAVED_STATE: Final = "load-server-state-from-file global"


class Place(NamedTuple):
    """Where HAProxy listens."""

    host: str
    port: int


def places(text: str) -> list[Place]:
    """Return where the frontends of a configuration listen, in its order."""
    return [place for _, place in _binds(text)]


def admin_socket(text: str) -> str | None:
    """Return the path at which Serve asks HAProxy how it is."""
    found = ADMIN_SOCKET.search(text)
    return found[2] if found else None


def rewrite(
    text: str, descriptors: Mapping[Place, int], socket_path: str, *, is_state_fresh: bool
) -> str:
    """Return the configuration that HAProxy gets.

    Args:
        descriptors: the open sockets that it listens on, instead of opening its own.
        socket_path: of its own admin socket, which nobody but this user may use.
        is_state_fresh: whether what Serve has saved of the servers' states is of now.
    """
    lines = text.splitlines()
    for number, place in _binds(text):
        lines[number] = BIND.sub(rf"\g<1>fd@{descriptors[place]}", lines[number])
    text = "\n".join(lines) + "\n"
    text = ADMIN_SOCKET.sub(rf"\g<1>{socket_path}\g<3>600", text)
    return text if is_state_fresh else text.replace(SAVED_STATE, "")


def listen_at(place: Place, *, is_shared: bool) -> socket.socket:
    """Return a socket that is bound there; HAProxy lets it listen.

    Args:
        is_shared: whether others may bind the same place beside it.
    Raises:
        OSError: somebody else has it.
    """
    ((family, kind, _, _, address), *_) = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _binds(text: str) -> list[tuple[int, Place]]:
    """Return line numbers and places. Serve lets its clients say where HTTP and gRPC listen, but
    opens HAProxy's metrics and statistics, which ask nobody who he is, to everybody."""
    own_hosts = {
        "prometheus": os.environ.get(METRICS_HOST_VARIABLE, LOOPBACK),
        "stats": LOOPBACK,
    }
    found: list[tuple[int, Place]] = []
    section = ""
    for number, line in enumerate(text.splitlines()):
        if named := SECTION.match(line):
            section = named[1]
        elif bind := BIND.match(line):
            host = own_hosts.get(section, bind[2]).replace("*", "") or "0.0.0.0"
            found.append((number, Place(_address(host), int(bind[3]))))
    return found


def _address(host: str) -> str:
    """Return a name's address, by which an open socket knows its place."""
    ((_, _, _, _, (address, *_)), *_) = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return str(address)
