"""Who can reach a running instance of one machine, and who may call it."""

from __future__ import annotations

import contextlib
import socket
import stat
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.serve.conftest import Server
from tests.serve.test_failures import seconds_until

pytestmark = pytest.mark.serve


def listening(server: Server) -> set[tuple[str, str, int]]:
    """Return process, address and port of every TCP socket that listens below the command."""
    supervisor = psutil.Process(server.process.pid)
    found = set()
    for process in [supervisor, *supervisor.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add((process.name(), connection.laddr.ip, connection.laddr.port))
    return found


def is_loopback(address: str) -> bool:
    """gRPC has IPv4's as `::ffff:127.0.0.1`."""
    ip = ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def test_everything_listens_on_loopback_alone(server: Server) -> None:
    """HAProxy, Ray's GCS, raylet, dashboard, agents and workers, the replicas of all frameworks."""
    expected = {"haproxy", "gcs_server", "raylet", "ray::ServeController"}
    # HAProxy may be about to be replaced.
    seconds_until(lambda: expected <= {name for name, _, _ in listening(server)}, 20)
    found = listening(server)
    assert any(name.startswith("ray::ServeReplica") for name, _, _ in found)
    ports = {port for _, _, port in found}
    for variable in ("STATS", "METRICS"):
        assert int(server.environment[f"RAY_SERVE_HAPROXY_{variable}_PORT"]) in ports
    assert server.config["http_options"]["port"] in ports
    assert {each for each in found if not is_loopback(each[1])} == set()


def test_no_address_of_the_machine_is_open(server: Server) -> None:
    """The same as another machine sees it."""
    addresses = {
        address.address
        for group in psutil.net_if_addrs().values()
        for address in group
        if address.family == socket.AF_INET and not is_loopback(address.address)
    }
    for address in addresses:
        for _, _, port in listening(server):
            with socket.socket() as client:
                client.settimeout(5)
                assert client.connect_ex((address, port)) != 0, (address, port)


def test_the_token_is_the_instances_own_and_its_users_alone(server: Server) -> None:
    environment = server.script_environment
    assert environment["RAY_AUTH_MODE"] == "token"
    path = Path(environment["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(path.read_text()) >= 32
    assert path.read_text() not in server.log.read_text()


@pytest.mark.parametrize("headers", [{}, {"authorization": f"Bearer {'0' * 64}"}])
def test_the_dashboard_refuses_who_has_no_token(server: Server, headers: dict[str, str]) -> None:
    url = f"{server.dashboard}/api/serve/applications/"
    assert httpx.get(url, headers=headers, timeout=30).status_code in (401, 403)
    refused = httpx.put(url, headers=headers, json={"applications": []}, timeout=30)
    assert refused.status_code in (401, 403)
    assert server.applications() != {}


@pytest.mark.parametrize("command", [["status"], ["config"]])
def test_serves_commands_work_with_what_the_server_tells(
    server: Server, command: list[str]
) -> None:
    program = str(Path(sys.executable).with_name("serve"))
    done = subprocess.run(
        [program, *command],
        env=server.script_environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "image-example" in done.stdout


def test_serve_deploy_works_with_what_the_server_tells(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text(yaml.safe_dump(server.config))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("serve")), "deploy", str(path)],
        env=server.script_environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_script_without_the_token_is_refused(server: Server, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import ray\nray.init(address='auto', log_to_driver=False)\nprint('in')\n")
    environment = {**server.script_environment, "RAY_AUTH_TOKEN": "0" * 64}
    done = subprocess.run(
        [sys.executable, str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "in\n" not in done.stdout
