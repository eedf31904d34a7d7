"""What starting Serve needs to know beforehand: parts of its YAML, and the environment it reads.

The YAML is Serve's own to validate; here only ports and names are read from it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import yaml

from rayserve_app.errors import ConfigurationError, MissingDependency
from rayserve_app.operations.serve_yaml import applications_of, read_document
from rayserve_app.operations.server import haproxy
from rayserve_app.operations.server.access import LOOPBACK_ONLY
from rayserve_app.settings.section import shown

ENVIRONMENT_FILE: Final = Path(__file__).with_name("serve.env")
"""The variables that Serve reads, unless a file of the user's or the environment says otherwise."""

ONE_MACHINE = {
    # Replicas wait so long for load balancers to forget them before they stop. HAProxy on the same
    # machine takes 0.7 s to be reloaded, and twice that where another change came just before;
    # Serve's default, for other nodes, would make Ctrl-C take half a minute.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    **LOOPBACK_ONLY,
}


LONGEST_ANSWER: Final = "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"

DEFAULT_HTTP_PORT: Final = 8000

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True)
class ServeConfig:
    """What of a Serve YAML its supervisor acts on."""

    path: Path
    http_host: str
    http_port: int
    grpc_port: int | None
    application_names: tuple[str, ...]

    @property
    def http_url(self) -> str:
        """The address that a client on this machine uses."""
        return local_url(self.http_host, self.http_port)


def local_url(host: str, port: int | str) -> str:
    """Return the address that a client on this machine uses for what listens on a host."""
    host = LOOPBACK if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def read_config(path: Path) -> ServeConfig:
    """Read ports and application names from a Serve YAML; Serve's defaults stand in for gaps, but
    for the host: on one machine that is loopback."""
    config = read_document(path)
    applications = applications_of(config)
    http = config.get("http_options") or {}
    grpc = config.get("grpc_options") or {}
    return ServeConfig(
        path=path,
        http_host=http.get("host") or LOOPBACK,
        http_port=http.get("port") or DEFAULT_HTTP_PORT,
        # Serve opens the gRPC port only for servicers.
        grpc_port=(grpc.get("port") or 9000) if grpc.get("grpc_servicer_functions") else None,
        application_names=tuple(each.get("name") or "default" for each in applications),
    )


@contextmanager
def yaml_with_host(config: ServeConfig) -> Iterator[Path]:
    """Yield the YAML that Serve is to read: it would listen on all interfaces where no host is
    named."""
    document = read_document(config.path)
    http = document.get("http_options") or {}
    if http.get("host"):
        yield config.path
        return
    document["http_options"] = {**http, "host": config.http_host}
    with tempfile.NamedTemporaryFile("w", prefix="rayserve-", suffix=".yaml") as file:
        yaml.safe_dump(document, file, sort_keys=False)
        file.flush()
        yield Path(file.name)


def require_ray() -> None:
    """Raise MissingDependency where Ray is not installed."""
    if find_spec("ray") is None:
        raise MissingDependency("Ray is not installed", remedy="pip install 'rayserve-app[serve]'")


def read_environment_file(path: Path) -> dict[str, str]:
    """Read KEY=VALUE lines; values are taken as they stand, as Docker's `--env-file` takes them."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read", got=str(error)) from error
    environment = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigurationError(
                f"{path}, line {number}", expected="KEY=VALUE or # and a comment", got=repr(line)
            )
        environment[key] = value
    return environment


def file_beside(config_path: Path) -> Path | None:
    """Return the `serve.env` beside a Serve YAML, if there is one."""
    file = config_path.with_name(ENVIRONMENT_FILE.name)
    return file if file.is_file() else None


def serve_variables(file: Path | None) -> dict[str, str]:
    """Return our variables, with those of a file of the user's, if any, in their place."""
    own = read_environment_file(ENVIRONMENT_FILE)
    return own if file is None else {**own, **read_environment_file(file)}


def serve_environment(file: Path | None, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of Serve on this machine; what the user has already set wins."""
    launcher = haproxy.launcher()
    own = {} if launcher is None else {haproxy.VARIABLE: launcher}
    # Where the YAML names a program, like MXNet's Python, it is this environment's first.
    programs = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', os.defpath)}"
    variables = serve_variables(file)
    return {**ONE_MACHINE, **own, **variables, **inherited, "PATH": programs}


def longest_answer_s(environment: Mapping[str, str]) -> int | None:
    """Return how long HAProxy waits for an answer, None for ever."""
    text = environment.get(LONGEST_ANSWER)
    if not text:
        return None
    if text.isdecimal() and len(text) < 10:
        return int(text)
    raise ConfigurationError(
        f"{LONGEST_ANSWER} is not a time", expected="a whole number of seconds", got=shown(text)
    )
