"""Who may use the Ray of one machine: this user's processes, by a token of the instance's own.

Whoever reaches Ray's ports runs code. On one machine they are all on loopback, as Ray has them on
systems where it makes no clusters; every process that joins must be told so too.

Source: ray/_private/ray_constants.py, ray/_private/services.py (`get_node_ip_address`) and
ray/_private/authentication, Ray 2.60.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from rayserve_app.errors import ConfigurationError

LOOPBACK_ONLY: Final = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

MODE: Final = "RAY_AUTH_MODE"

TOKEN: Final = "RAY_AUTH_TOKEN"

TOKEN_PATH: Final = "RAY_AUTH_TOKEN_PATH"
"""Ray reads the first of the two that is set."""

FOLDER: Final = ".rayserve-app"
"""Below the home directory; Ray's own place for a token would turn other instances' on."""

GCS_ADDRESS: Final = "--gcs-address="


@contextmanager
def own_token(environment: Mapping[str, str], http_port: int) -> Iterator[dict[str, str]]:
    """Make a token for as long as the block runs; yields the environment with its path.

    A token that the user has set stays, and where authentication is off none is made.

    Args:
        http_port: names the file: no two instances of a machine have the same.
    Raises:
        ConfigurationError: the file cannot be written.
    """
    if environment.get(MODE) != "token" or environment.get(TOKEN) or environment.get(TOKEN_PATH):
        yield dict(environment)
        return
    try:
        path = Path.home() / FOLDER / f"token-{http_port}"
    except RuntimeError as error:
        raise ConfigurationError(
            "There is no home directory for Ray's token",
            got=str(error),
            remedy=f"Set HOME, or {TOKEN_PATH} to a file with a token of your own",
        ) from error
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except OSError as error:
        raise ConfigurationError(
            f"Ray's token cannot be written to {path}",
            got=error.strerror,
            remedy=f"Set {TOKEN_PATH} to a file with a token of your own",
        ) from error
    try:
        yield {**environment, TOKEN_PATH: str(path)}
    finally:
        path.unlink(missing_ok=True)


def headers(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of requests to Ray's dashboard, in this environment.

    Raises:
        ConfigurationError: the token's file cannot be read.
    """
    if environment.get(MODE) != "token":
        return {}
    token = environment.get(TOKEN, "")
    if not token and (path := environment.get(TOKEN_PATH)):
        try:
            token = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"Ray's token cannot be read from {path}", got=str(error)
            ) from error
    return {"authorization": f"Bearer {token}"} if token else {}


def script_variables(
    environment: Mapping[str, str], dashboard_url: str, processes: Iterable[psutil.Process]
) -> dict[str, str]:
    """Return what a script, or a command of Ray's or Serve's, needs beside the instance whose
    processes these are."""
    names = (MODE, TOKEN_PATH, *LOOPBACK_ONLY)
    gcs = _find_gcs(processes)
    return {
        **({"RAY_ADDRESS": gcs} if gcs else {}),
        "RAY_DASHBOARD_ADDRESS": dashboard_url,
        **{name: environment[name] for name in names if name in environment},
    }


def _find_gcs(processes: Iterable[psutil.Process]) -> str | None:
    """Return the address of an instance, as Ray tells it to its own processes."""
    for process in processes:
        try:
            command_line = process.cmdline()
        except psutil.Error:
            continue
        for part in command_line:
            if part.startswith(GCS_ADDRESS):
                return part.removeprefix(GCS_ADDRESS)
    return None
