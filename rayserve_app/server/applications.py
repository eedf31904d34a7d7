"""The state of the applications of one Serve instance, as Ray's dashboard and Serve's proxy tell.

The dashboard knows why an application failed; the proxy knows whether a request would arrive.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psutil

from rayserve_app.errors import ConfigurationError
from rayserve_app.server.output import ANSI_COLOUR

TIMEOUT_S = 1.0

# A proxy for the outside world (http_proxy) has no business between this process and itself.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Application:
    """One application; `status` is Serve's word, `message` its reason, if it has one."""

    name: str
    status: str
    message: str = ""
    route_prefix: str | None = None

    @property
    def is_running(self) -> bool:
        return self.status == "RUNNING"

    @property
    def is_settled(self) -> bool:
        """Whether it runs or has failed, rather than being on its way."""
        return self.status in ("RUNNING", "DEPLOY_FAILED", "UNHEALTHY")


def find_dashboard(processes: Iterable[psutil.Process]) -> str | None:
    """Find the address of the dashboard among a Ray instance's processes.

    Ray takes the next free port after 8265 when another instance is there, so the port that the
    process listens on is asked, not the default."""
    for process in processes:
        try:
            command_line = process.cmdline()
            if not any(part.endswith("dashboard/dashboard.py") for part in command_line):
                continue
            for connection in process.net_connections("tcp"):
                # The dashboard's own metrics port listens on all interfaces.
                is_local = connection.laddr and connection.laddr.ip == "127.0.0.1"
                if connection.status == psutil.CONN_LISTEN and is_local:
                    return f"http://127.0.0.1:{connection.laddr.port}"
        except psutil.Error:
            continue
    return None


def read_applications(dashboard_url: str) -> dict[str, Application]:
    """All applications that Serve knows by now; none while it does not answer."""
    document = _get_json(f"{dashboard_url}/api/serve/applications/")
    return {
        name: Application(
            name=name,
            status=details["status"],
            message=_message(details),
            route_prefix=details.get("route_prefix"),
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
    return set(_get_json(f"{http_url}/-/routes"))


def is_warming_up(application_url: str) -> bool:
    """Whether a model of ours runs, but says on its own page that it is not ready yet."""
    return _get_json(application_url).get("ready") is False


def _get_json(url: str) -> dict[str, Any]:
    try:
        with _opener.open(url, timeout=TIMEOUT_S) as response:
            document = json.load(response)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise ConfigurationError(
                f"Ray's dashboard refuses {url} ({error.code})",
                remedy="Set RAY_AUTH_MODE=disabled, or run `serve run` yourself",
            ) from error
        return {}
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
