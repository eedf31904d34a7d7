"""One Serve instance for one run: `rayserve-app serve` on free ports, with a home of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil
import yaml

from rayserve_app.bench.load import Target
from rayserve_app.operations.server import access, processes
from rayserve_app.operations.server.applications import find_dashboard
from rayserve_app.operations.server.settings import serve_environment

READY_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 20.0

PORT_VARIABLES = (
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)


class NotReady(Exception):
    """Serve did not start, or an application failed."""


class Instance:
    """A Serve configuration and, if any, a file of Serve's variables over ours and below this
    process's."""

    def __init__(self, config: dict[str, Any], environment_file: Path | None) -> None:
        self._config = config
        self._environment_file = environment_file
        self.config_path = Path()
        """The Serve YAML of this run, while it runs."""

    @property
    def applications(self) -> list[dict[str, Any]]:
        """The applications' declarations."""
        return list(self._config["applications"])

    @property
    def environment(self) -> dict[str, str]:
        """The variables that Serve's processes start with, the allocator's among them."""
        return serve_environment(self._environment_file, dict(os.environ))

    def url(self, path: str) -> str:
        """Return the address of a path, `/<application>/...`, through HAProxy."""
        return "http://{host}:{port}{path}".format(**self._config["http_options"], path=path)

    def target(self, application: str, body: bytes, content_type: str) -> Target:
        """Return a request to a model's `/invocations`."""
        return Target.post(self.url(f"/{application}/invocations"), body, content_type)

    def replicas(self, application: str) -> list[psutil.Process]:
        """Return the replicas' processes; Ray puts application and deployment in their title."""
        return self.processes_named(f"ray::ServeReplica:{application}:")

    def processes_named(self, title: str) -> list[psutil.Process]:
        """Return the processes whose title, or program, begins so, the latest last."""
        found = []
        for process in processes.descendants():
            with suppress(psutil.Error):
                names = ("".join(process.cmdline()[:1]), process.name())
                if any(name.startswith(title) for name in names):
                    found.append(process)
        return sorted(found, key=psutil.Process.create_time)

    def apply(self, applications: list[dict[str, Any]]) -> None:
        """Change the applications as `serve deploy` does; return when Serve has taken it in hand.

        Raises:
            OSError: Serve cannot be reached.
        """
        (controller,) = self.processes_named("ray::ServeController")
        request = urllib.request.Request(
            f"{find_dashboard(processes.descendants())}/api/serve/applications/",
            json.dumps({**self._config, "applications": applications}).encode(),
            {"content-type": "application/json", **access.headers(controller.environ())},
            method="PUT",
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=READY_TIMEOUT_S):
            pass

    def niceness(self) -> int:
        """Return the replicas' niceness, 15 unless `RAY_worker_niceness` says otherwise: what they
        are compared with must have the same, or other load on the machine meets only them."""
        replicas = self.replicas(self._config["applications"][0]["name"])
        return max((replica.nice() for replica in replicas), default=0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve the applications for as long as this lasts.

        Raises:
            NotReady: Serve did not start, or an application failed.
        """
        # Short, for Ray's sockets lie below it and their paths end at 107 bytes.
        with tempfile.TemporaryDirectory(prefix="rb", ignore_cleanup_errors=True) as folder:
            self.config_path = Path(folder, "bench.yaml")
            self.config_path.write_text(yaml.safe_dump(self._config))
            # What a killed supervisor leaves behind is then found below this process, and ended.
            processes.become_subreaper()
            program = str(Path(sys.executable).with_name("rayserve-app"))
            command = [program, "serve", str(self.config_path)]
            if self._environment_file is not None:
                command += ["--environment", str(self._environment_file)]
            own = dict.fromkeys(("HOME", "RAY_TMPDIR", "TMPDIR"), folder)
            ports = {variable: str(free_port()) for variable in PORT_VARIABLES}
            child, lines = processes.start(command, {**os.environ, **own, **ports})
            try:
                log = Log(lines)
                if not log.settled.wait(READY_TIMEOUT_S) or not log.is_ready:
                    raise NotReady("Serve is not ready:\n" + "\n".join(log.last_lines))
                yield
            finally:
                child.send_signal(signal.SIGTERM)
                try:
                    child.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    processes.kill(child)


class Log(threading.Thread):
    """Reads what the supervisor prints until it ends; tells when it says that all is ready."""

    def __init__(self, lines: IO[str]) -> None:
        super().__init__(daemon=True, name="serve-log")
        self.settled = threading.Event()
        """Set when Serve is ready, or something failed, or it ended."""
        self.is_ready = False
        self.last_lines: deque[str] = deque(maxlen=40)
        self._lines = lines
        self.start()

    def run(self) -> None:
        for line in self._lines:
            self.last_lines.append(line.rstrip())
            if line.startswith("Ready after"):
                self.is_ready = "failed" not in line
                self.settled.set()
            elif line.startswith("No application runs"):
                self.settled.set()
        self.settled.set()


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
