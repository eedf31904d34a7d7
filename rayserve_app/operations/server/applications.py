"""The state of the applications of one Serve instance, as Ray's dashboard and Serve's proxy tell.

The dashboard knows why an application failed; the proxy knows whether a request would arrive.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

import psutil

from rayserve_app.errors import ConfigurationError
from rayserve_app.operations.serve_yaml import OWN_BUILDERS
from rayserve_app.operations.server.output import ANSI_COLOUR

TIMEOUT_S = 1.0

PLACING_S = 5.0
"""A replica that has no place after so long waits for room, or for its environment."""

NO_HEADERS: Mapping[str, str] = {}

# A proxy for the outside world (http_proxy) has no business between this process and itself.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Application:
    """One application; `status` is Serve's word, `message` its reason, if it has one."""

    name: str
    status: str
    message: str = ""
    route_prefix: str | None = None
    is_ours: bool = False
    """Whether a builder of ours has made it, so that its page tells whether it is warm."""
    running_replicas: int = 0
    unplaced: Mapping[str, float] = field(default_factory=dict)
    """What a replica asks for that waits to be placed, by the resource; empty if none does."""

    @property
    def is_running(self) -> bool:
        return self.status == "RUNNING"

    @property
    def is_settled(self) -> bool:
        """Whether it runs or has failed, rather than being on its way."""
        return self.status in ("RUNNING", "DEPLOY_FAILED", "UNHEALTHY")


def find_dashboard(processes: Iterable[psutil.Process]) -> str | None:
    """Find the address of the dashboard among a Ray instance's processes.

    Ray takes the next free port after the first one, 8265, when another instance is there, so the
    port that the process listens on is asked. Its own metrics have one far from there."""
    for process in processes:
        try:
            command_line = process.cmdline()
            if not any(part.endswith("dashboard/dashboard.py") for part in command_line):
                continue
            options = dict(part.split("=", 1) for part in command_line if "=" in part)
            first = int(options["--port"])
            last = first + int(options["--port-retries"])
            for connection in process.net_connections("tcp"):
                is_listening = connection.status == psutil.CONN_LISTEN
                if is_listening and first <= connection.laddr.port <= last:
                    return f"http://127.0.0.1:{connection.laddr.port}"
        except psutil.Error:
            continue
    return None


def read_applications(
    dashboard_url: str, headers: Mapping[str, str] = NO_HEADERS
) -> dict[str, Application]:
    """All applications that Serve knows by now; none while it does not answer."""
    document = get_json(f"{dashboard_url}/api/serve/applications/", headers)
    return {
        name: Application(
            name=name,
            status=details["status"],
            message=_message(details),
            route_prefix=details.get("route_prefix"),
            is_ours=_import_path(details).startswith(OWN_BUILDERS),
            running_replicas=sum(each["state"] == "RUNNING" for _, each in _replicas(details)),
            unplaced=_unplaced(details),
        )
        for name, details in document.get("applications", {}).items()
    }


def _message(details: dict[str, Any]) -> str:
    """The application's own message, and those of its deployments that are not healthy."""
    deployments = details.get("deployments", {}).values()
    messages = [
        details.get("message", ""),
        *(each.get("message", "") for each in deployments if each.get("status") != "HEALTHY"),
    ]
    return "\n".join(ANSI_COLOUR.sub("", message).strip() for message in messages if message)


def read_routes(http_url: str) -> set[str]:
    """The route prefixes that the proxy has taken over; none while it does not answer."""
    return set(get_json(f"{http_url}/-/routes"))


def read_free(
    dashboard_url: str, headers: Mapping[str, str] = NO_HEADERS
) -> list[Mapping[str, float]]:
    """What is free on each node, by the resource; empty while that is not known."""
    document = get_json(f"{dashboard_url}/api/cluster_status", headers)
    for key in ("data", "clusterStatus", "loadMetricsReport", "usageByNode"):
        document = document.get(key) or {}
    # Ray counts in ten-thousandths.
    return [
        {name: round(total - used, 4) for name, (used, total) in node.items()}
        for node in document.values()
    ]


def is_warming_up(application_url: str) -> bool | None:
    """Whether an application says on its page, as models of ours do, that it is not ready yet; None
    where it does not answer in time."""
    try:
        with _opener.open(application_url, timeout=TIMEOUT_S) as response:
            is_json = response.headers.get_content_type() == "application/json"
            document = json.load(response) if is_json else None
    except urllib.error.HTTPError as error:
        return None if error.code >= 500 else False
    except ValueError:
        return False
    except (OSError, HTTPException):
        return None
    return isinstance(document, dict) and document.get("ready") is False


def _import_path(details: Mapping[str, Any]) -> str:
    config = details.get("deployed_app_config") or {}
    return str(config.get("import_path") or "")


def _replicas(details: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each replica of an application after its deployment."""
    for deployment in details.get("deployments", {}).values():
        for replica in deployment.get("replicas", ()):
            yield deployment, replica


def _unplaced(details: Mapping[str, Any]) -> dict[str, float]:
    """What the first replica asks for that has no node yet, though it has been asked for long."""
    for deployment, replica in _replicas(details):
        since_s = time.time() - replica.get("start_time_s", time.time())
        if replica["state"] == "STARTING" and not replica.get("node_id") and since_s > PLACING_S:
            options = deployment["deployment_config"].get("ray_actor_options") or {}
            asked = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus", 0)}
            return {name: amount for name, amount in asked.items() if amount}
    return {}


def get_json(url: str, headers: Mapping[str, str] = NO_HEADERS) -> dict[str, Any]:
    """Return the object that Ray's dashboard answers; empty if it answers none.

    Raises:
        ConfigurationError: it wants another token.
    """
    request = urllib.request.Request(url, headers=dict(headers))
    try:
        with _opener.open(request, timeout=TIMEOUT_S) as response:
            document = json.load(response)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise ConfigurationError(
                f"Ray's dashboard refuses {url} ({error.code})",
                remedy="Set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to its token",
            ) from error
        return {}
    except (OSError, ValueError, HTTPException):
        return {}
    return document if isinstance(document, dict) else {}
