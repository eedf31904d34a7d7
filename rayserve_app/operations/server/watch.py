"""Says what becomes of the applications of a Serve instance: waiting, running, failed, ready."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import replace

from rayserve_app.operations.server import access
from rayserve_app.operations.server.applications import (
    Application,
    find_dashboard,
    is_warming_up,
    read_applications,
    read_free,
    read_routes,
)
from rayserve_app.operations.server.haproxy_config import LOOPBACK, METRICS_HOST_VARIABLE
from rayserve_app.operations.server.output import say
from rayserve_app.operations.server.processes import descendants
from rayserve_app.operations.server.settings import ServeConfig, local_url

POLL_S = 1.0
POLL_READY_S = 5.0
PROGRESS_S = 10.0
WAITING_S = 60.0


def shorten(lines: list[str], last: int = 12) -> list[str]:
    """Keep the first line and the last ones: Serve wraps the error that matters, which comes last,
    in tracebacks of its own."""
    if len(lines) <= last + 2:
        return lines
    return [lines[0], f"[{len(lines) - last - 1} lines; all: `serve status`]", *lines[-last:]]


class Watch:
    """Polls Serve and prints each change once."""

    def __init__(self, config: ServeConfig, environment: Mapping[str, str]) -> None:
        self._config = config
        self._environment = environment
        self._headers = access.headers(environment)
        self._dashboard_url: str | None = None
        self._told: dict[str, str] = {}
        """The state of each application that was told last."""
        self._told_messages: dict[str, str] = {}
        self._next_waiting_s: dict[str, float] = {}
        """When to tell again of those that wait for room."""
        self._is_ready = False
        self._started_s = time.monotonic()
        self._next_poll_s = self._started_s
        self._next_progress_s = self._started_s + PROGRESS_S

    def update(self) -> None:
        """Poll when it is time to, and say what has changed."""
        now_s = time.monotonic()
        if now_s < self._next_poll_s:
            return
        self._next_poll_s = now_s + (POLL_READY_S if self._is_ready else POLL_S)
        current = self._read()
        for application in current.values():
            self._tell_change(application)
        self._tell_room(current, now_s)
        if self._is_ready:
            return
        waiting = [
            name
            for name in self._config.application_names
            if name not in current or not current[name].is_settled
        ]
        if not waiting:
            self._is_ready = True
            self._tell_ready(current)
        elif now_s >= self._next_progress_s:
            self._next_progress_s = now_s + PROGRESS_S
            self._tell_waiting(waiting, current)

    def _read(self) -> dict[str, Application]:
        if self._dashboard_url is None:
            self._dashboard_url = find_dashboard(descendants())
        if self._dashboard_url is None:
            return {}
        current = read_applications(self._dashboard_url, self._headers)
        new = [each for each in current.values() if each.is_running and not self._has_run(each)]
        if not new:
            return current
        routes = read_routes(self._config.http_url)
        return current | {each.name: self._as_seen_by_clients(each, routes) for each in new}

    def _has_run(self, application: Application) -> bool:
        return self._told.get(application.name) == application.status

    def _as_seen_by_clients(self, application: Application, routes: set[str]) -> Application:
        """An application runs a moment before HAProxy has been told of it, and its model may still
        be warming up."""
        if application.route_prefix is None:
            return application
        if application.route_prefix not in routes:
            return replace(application, status="DEPLOYING", message="waiting for the proxy")
        # Whichever replica gets a request says so of itself alone; HAProxy asks each in turn.
        for _ in range(application.running_replicas):
            is_cold = is_warming_up(self._url(application))
            # A loop that a warm-up holds up answers late.
            if is_cold or (is_cold is None and application.is_ours):
                return replace(application, status="DEPLOYING", message="warming up")
        return application

    def _tell_change(self, application: Application) -> None:
        before = self._told.get(application.name)
        if not application.is_settled or application.status == before:
            return
        self._told[application.name] = application.status
        if application.is_running:
            say(f"{application.name} is running after {self._elapsed()}.")
            return
        say(f"{application.name} is {application.status}:")
        for line in shorten(application.message.splitlines()):
            say(f"    {line}")

    def _tell_waiting(self, waiting: list[str], current: Mapping[str, Application]) -> None:
        say(f"Waiting for {', '.join(waiting)} ({self._elapsed()}).")
        for name in waiting:
            message = current[name].message if name in current else ""
            if message and message != self._told_messages.get(name):
                self._told_messages[name] = message
                for line in shorten(message.splitlines(), last=1):
                    say(f"    {name}: {line}")

    def _tell_room(self, current: Mapping[str, Application], now_s: float) -> None:
        """Say, again and again, which applications wait for room: Serve does so for ever."""
        for name in [each for each in self._next_waiting_s if not _is_unplaced(current.get(each))]:
            del self._next_waiting_s[name]
            say(f"{name} does not wait for room any more.")
        unplaced = [
            each
            for each in current.values()
            if each.unplaced and now_s >= self._next_waiting_s.get(each.name, 0)
        ]
        nodes = (
            read_free(self._dashboard_url, self._headers)
            if unplaced and self._dashboard_url
            else []
        )
        for application in unplaced:
            if lacking := _lacking(application.unplaced, nodes):
                self._next_waiting_s[application.name] = now_s + WAITING_S
                say(f"{application.name} waits for room: a new replica asks for {lacking}.")
                if application.running_replicas:
                    say("    The old ones serve on. Free what is missing, or lower num_cpus; with")
                    say("    max_surge_percent: 0 an old replica stops before a new one starts.")

    def _tell_ready(self, current: Mapping[str, Application]) -> None:
        running = [each for each in current.values() if each.is_running]
        if not running:
            say("No application runs. Ctrl-C stops Serve.")
            return
        urls = {each.name: self._url(each) for each in running}
        width = max(map(len, urls))
        failed = len(current) - len(running)
        say(f"\nReady after {self._elapsed()}" + (f", but {failed} failed." if failed else "."))
        for name, url in urls.items():
            say(f"  {name:{width}}  {url}")
        say(f"Try:      curl {next(iter(urls.values()))}")
        say(f"Metrics:  {self._metrics_url()} (HAProxy, for Prometheus)")
        say(f"          {self._dashboard_url}/api/prometheus/sd (Ray's and the models')")
        say(f"Ray:      {self._dashboard_url}")
        self._tell_variables()
        say("Stop:     Ctrl-C\n")

    def _tell_variables(self) -> None:
        """Say what a script beside this instance needs, to be copied into a shell."""
        variables = access.script_variables(
            self._environment, self._dashboard_url or "", descendants()
        )
        lines = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
        say("Scripts:  export " + " \\\n            ".join(lines))

    def _url(self, application: Application) -> str:
        if application.route_prefix is None:
            return "(no route)"
        return self._config.http_url + application.route_prefix

    def _metrics_url(self) -> str:
        port = self._environment.get("RAY_SERVE_HAPROXY_METRICS_PORT", "9101")
        host = self._environment.get(METRICS_HOST_VARIABLE, LOOPBACK)
        return f"{local_url(host, port)}/metrics"

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._started_s:.0f} s"


def _is_unplaced(application: Application | None) -> bool:
    return application is not None and bool(application.unplaced)


def _lacking(asked: Mapping[str, float], nodes: list[Mapping[str, float]]) -> str:
    """Return what is asked for and how much of it a node has; empty where one has it all, or where
    that is not known."""
    if not nodes or any(
        all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes
    ):
        return ""
    free = {name: max(node.get(name, 0) for node in nodes) for name in asked}
    return " and ".join(
        f"{amount:g} {name}, of which {free[name]:.3g} is free" for name, amount in asked.items()
    )
