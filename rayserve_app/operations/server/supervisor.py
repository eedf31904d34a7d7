"""`rayserve-app serve`: check the ports, start Serve, say when it is ready, stop it cleanly."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rayserve_app.errors import ConfigurationError
from rayserve_app.operations.server import access, haproxy, ports, processes
from rayserve_app.operations.server.output import Relay, say
from rayserve_app.operations.server.settings import (
    ServeConfig,
    read_config,
    require_ray,
    serve_environment,
    yaml_with_host,
)
from rayserve_app.operations.server.watch import Watch

EXIT_STOPPED = 0
EXIT_DIED = 1
EXIT_PORT_TAKEN = 3
EXIT_KILLED = 130

STOP_TIMEOUT_S = 8.0

CHECK_VALUES = "deployments.serve_schema"
"""Checks a YAML in a process of its own: this one never imports Ray."""


def serve(config_path: Path, environment_file: Path | None) -> int:
    """Serve the applications of a YAML until SIGINT, SIGTERM or the terminal's end.

    Args:
        environment_file: the user's variables over those of the package.

    Returns: the exit status: 0 stopped, 1 Serve died, 3 a port is taken, 130 killed on request.
    """
    require_ray()
    config = read_config(config_path)
    environment = serve_environment(environment_file, os.environ)
    check_values(config_path)
    with processes.StopRequests() as requests:
        stop_leftover_haproxies()
        taken = [port for port in ports.serve_ports(config, environment) if ports.is_taken(port)]
        for port in taken:
            print(ports.describe_taken(port), file=sys.stderr)
        if taken:
            return EXIT_PORT_TAKEN
        with (
            access.own_token(environment, config.http_port) as with_token,
            haproxy.own_folder(with_token) as with_folder,
            yaml_with_host(config) as path,
        ):
            return supervise(config, path, with_folder, requests)


def check_values(config_path: Path) -> None:
    """Raise ConfigurationError for what Serve would refuse with a traceback."""
    command = [sys.executable, "-m", CHECK_VALUES, str(config_path)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    if checked.returncode:
        raise ConfigurationError(checked.stderr.strip())


def stop_leftover_haproxies() -> None:
    """End what a killed run has left: it holds the ports and answers 500."""
    for process in processes.leftover_haproxies():
        description = ports.describe_process(process)
        if processes.stop_leftover(process):
            say(f"Stopped an HAProxy that an earlier run left behind ({description}).")


def supervise(
    config: ServeConfig,
    path: Path,
    environment: Mapping[str, str],
    requests: processes.StopRequests,
) -> int:
    """Run Serve as a child until it ends or a request to stop comes.

    Args:
        path: of the YAML that Serve reads.
    """
    say(f"Starting Serve with {config.path}. Ctrl-C stops it.")
    processes.become_subreaper()
    # Always an instance of its own: one that runs already has not read our environment.
    command = [sys.executable, "-m", "ray.serve.scripts", "run", "--address", "local"]
    child, lines = processes.start([*command, str(path)], environment)
    relay = Relay(lines)
    try:
        relay.start()
        watch = Watch(config, environment)
        while not requests.wait(0.25):
            processes.reap_orphans(child)
            if child.returncode is not None:
                return report_death(child.returncode, relay)
            watch.update()
        return stop(child, relay, requests)
    finally:
        relay.mute()
        processes.kill(child)


def stop(child: processes.Child, relay: Relay, requests: processes.StopRequests) -> int:
    """Let requests in flight end, then everything else; say how that went."""
    relay.mute()
    started_s = time.monotonic()
    requests_before = requests.count
    say("\nStopping. Ctrl-C again ends everything at once.")
    ended_by_itself = processes.stop(child, requests, STOP_TIMEOUT_S)
    took = f"{time.monotonic() - started_s:.1f} s"
    if ended_by_itself:
        say(f"Stopped in {took}.")
    elif requests.count > requests_before:
        say(f"Killed after {took}.")
        return EXIT_KILLED
    else:
        say(f"Stopped in {took}; what had not ended by itself was killed.")
    return EXIT_STOPPED


def report_death(returncode: int, relay: Relay) -> int:
    """Say that Serve ended by itself, and its last words."""
    # Its last lines may still be in the pipe, which Ray's other processes can hold open.
    relay.join(timeout=1)
    relay.mute()
    how = f"signal {-returncode}" if returncode < 0 else f"exit status {returncode}"
    print(f"`serve run` ended by itself ({how}). Its last lines:", file=sys.stderr)
    for line in relay.last_lines:
        print(f"    {line}", file=sys.stderr)
    return EXIT_DIED
