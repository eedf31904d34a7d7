"""`rayserve-app serve` in a real pseudo-terminal, and the pure parts of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pexpect
import psutil
import pytest

from rayserve_app.cli import main
from rayserve_app.errors import ConfigurationError
from rayserve_app.operations.server.haproxy import own_folder
from rayserve_app.operations.server.output import ProgressFilter
from rayserve_app.operations.server.ports import Port, describe_taken, is_taken, serve_ports
from rayserve_app.operations.server.processes import (
    haproxy_node_id,
    leftover_haproxies,
    send_signal,
)
from rayserve_app.operations.server.settings import (
    ENVIRONMENT_FILE,
    ONE_MACHINE,
    file_beside,
    read_config,
    read_environment_file,
    serve_environment,
)
from rayserve_app.operations.server.watch import shorten

RAYSERVE_APP = str(Path(sys.executable).with_name("rayserve-app"))
NODE_ID = "ceb41f7ad66f8709f95ed4f11772c66c8a3d924af5764eb5765e622d"

READY_TIMEOUT_S = 120
STOP_LIMIT_S = 10.0
KILL_LIMIT_S = 2.0


def test_environment_file_is_key_value_lines_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "serve.env"
    path.write_text("# why\nA=1\n\nB=x=y # z\n")
    assert read_environment_file(path) == {"A": "1", "B": "x=y # z"}


@pytest.mark.parametrize("line", ["A", "A-B=1", "export A=1", "=1"])
def test_other_lines_in_the_environment_file_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "serve.env"
    path.write_text(f"# first\n{line}\n")
    with pytest.raises(ConfigurationError, match=r"serve\.env, line 2: expected KEY=VALUE"):
        read_environment_file(path)


def test_environment_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "serve.env"
    path.write_bytes(b"A=\xff\n")
    with pytest.raises(ConfigurationError, match=r"serve\.env cannot be read"):
        read_environment_file(path)


def test_environment_of_the_user_wins_over_the_file() -> None:
    environment = serve_environment(None, {"RAY_SERVE_ENABLE_HA_PROXY": "0"})
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert environment["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"


def test_a_file_of_the_users_overrides_single_variables(tmp_path: Path) -> None:
    assert file_beside(tmp_path / "app.yaml") is None
    (tmp_path / "serve.env").write_text("RAY_SERVE_ENABLE_HA_PROXY=0\nOF_MINE=1\n")
    file = file_beside(tmp_path / "app.yaml")
    own = serve_environment(None, {})
    overridden = {"RAY_SERVE_ENABLE_HA_PROXY": "0", "OF_MINE": "1"}
    assert serve_environment(file, {}) == own | overridden
    assert serve_environment(file, {"OF_MINE": "2"}) == own | overridden | {"OF_MINE": "2"}


def test_what_is_right_on_one_machine_only_is_not_in_the_file() -> None:
    assert not ONE_MACHINE.keys() & read_environment_file(ENVIRONMENT_FILE).keys()
    assert ONE_MACHINE.items() <= serve_environment(None, {}).items()


def test_haproxy_is_started_with_our_settings_unless_the_user_names_another() -> None:
    name = "RAY_SERVE_HAPROXY_BINARY_PATH"
    environment = serve_environment(None, dict(os.environ))
    command = [environment[name], "-c", "-V", "-f", os.devnull]
    checked = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    # HAProxy read both files, ours last; it misses a listener, which Serve's own file has.
    assert "Configuration file has no error" in checked.stdout + checked.stderr
    assert serve_environment(None, {name: "/opt/haproxy"})[name] == "/opt/haproxy"


def test_haproxys_files_lie_where_only_this_user_can_look_while_it_runs() -> None:
    with own_folder({"RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "/mine"}) as environment:
        folder = Path(environment["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        # A node's folder, and what HAProxy adds while it starts: unix(7) has 108 bytes, one of 0.
        socket_path = Path(environment["RAY_SERVE_HAPROXY_SOCKET_PATH"])
        assert len(f"{socket_path.parent}/{NODE_ID}/{socket_path.name}.4194304.tmp") < 108
        assert environment["RAY_SERVE_HAPROXY_SERVER_STATE_FILE"] == "/mine"
    assert not folder.exists()


def test_config_is_read_with_the_defaults_of_serve_but_the_host(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("applications: [{import_path: 'a:b'}, {name: two, import_path: 'a:b'}]")
    config = read_config(path)
    assert (config.http_host, config.http_port, config.grpc_port) == ("127.0.0.1", 8000, None)
    assert config.application_names == ("default", "two")
    assert config.http_url == "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- a", "expected a mapping, got list"),
        ("applications: []", "has no applications"),
        ("applications: [x]", r"got str - at `applications\[0\]`"),
        ("{http_options: 3, applications: [{}]}", "got int - at `http_options`"),
    ],
)
def test_config_that_serve_would_choke_on_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "app.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_config(path)


def test_ports_follow_the_environment_and_grpc_only_with_servicers(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("{applications: [{}], grpc_options: {port: 9001}}")
    environment = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_STATS_PORT": "8405"}
    numbers = [port.number for port in serve_ports(read_config(path), environment)]
    assert numbers == [8000, 8405, 9101, 8500]
    path.write_text("{applications: [{}], grpc_options: {grpc_servicer_functions: ['a.b']}}")
    numbers = [port.number for port in serve_ports(read_config(path), environment)]
    assert numbers == [8000, 9000, 8405, 9101, 8500, 9500]


def test_ports_are_looked_for_where_they_will_be_bound(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("{applications: [{}], http_options: {host: 0.0.0.0}}")
    config, environment = read_config(path), serve_environment(None, {})
    hosts = {port.number: port.host for port in serve_ports(config, environment)}
    assert hosts == {8000: "0.0.0.0", 8404: "127.0.0.1", 9101: "127.0.0.1", 8510: "0.0.0.0"}
    environment["RAYSERVE_HAPROXY_METRICS_HOST"] = "127.0.0.2"
    hosts = {port.number: port.host for port in serve_ports(config, environment)}
    assert (hosts[8404], hosts[9101]) == ("127.0.0.1", "127.0.0.2")
    # Serve's own HAProxy opens them to everybody.
    environment["RAY_SERVE_HAPROXY_BINARY_PATH"] = "/opt/haproxy"
    assert {port.host for port in serve_ports(config, environment)} == {"0.0.0.0"}


def test_port_variable_that_is_no_port_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("applications: [{}]")
    for text in ("off", "9" * 5000, "0", ""):
        environment = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_STATS_PORT": text}
        with pytest.raises(ConfigurationError, match="RAY_SERVE_HAPROXY_STATS_PORT is not a port"):
            serve_ports(read_config(path), environment)


@pytest.mark.parametrize("host", ["a..b", "a\0b", "no such host", "x" * 300, "\udc80", "1:2"])
def test_host_that_cannot_be_one_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be bound on .*http_options\.host"):
        is_taken(Port(20_000, "HTTP", "http_options.port", host))


def test_taken_port_is_told_with_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = Port(listener.getsockname()[1], "HTTP", "http_options.port")
        assert is_taken(port)
        line = describe_taken(port)
    assert not is_taken(port)
    assert line.startswith(f"Port {port.number} (HTTP) is taken by pid {os.getpid()}, ")
    assert line.endswith("Stop that, or set http_options.port.")


@pytest.mark.parametrize(
    ("command_line", "node_id"),
    [
        (["haproxy", "-db", "-f", f"/tmp/haproxy-serve/{NODE_ID}/haproxy.cfg"], NODE_ID),
        (["haproxy", "-f", f"/x/{NODE_ID}/haproxy.cfg", "-sf", "12"], NODE_ID),
        (["haproxy", "-f", "/etc/haproxy/haproxy.cfg"], None),
        (["vim", f"/tmp/haproxy-serve/{NODE_ID}/haproxy.cfg"], None),
        ([], None),
    ],
)
def test_haproxy_of_serve_is_known_by_its_configuration(
    command_line: list[str], node_id: str | None
) -> None:
    assert haproxy_node_id(command_line) == node_id


def test_haproxy_is_left_over_once_no_process_of_its_node_lives() -> None:
    node_id = os.urandom(28).hex()
    path = f"/tmp/haproxy-serve/{node_id}/haproxy.cfg"
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen([*sleep, "-f", path]) as haproxy:
        with subprocess.Popen([*sleep, f"--node_id={node_id}"]) as raylet:
            assert haproxy.pid not in [process.pid for process in leftover_haproxies()]
            raylet.kill()
        assert haproxy.pid in [process.pid for process in leftover_haproxies()]
        haproxy.kill()


def test_progress_of_ray_is_hidden_and_all_else_shown() -> None:
    lines = {
        "2026-11-22 03:52:37,579\tINFO scripts.py:489 -- Running config file: 'app.yaml'.": True,
        "(ServeController pid=7) INFO 2026-11-22 03:53:02,455 serve 7 -- Throughput": True,
        "(ServeController pid=7)   • Direct ingress enabled": True,
        "(ServeReplica:a:Model pid=9)   a model's indented line": False,
        "(ServeController pid=7) ": True,
        "(ServeController pid=7) WARNING 2026-11-22 03:53:02,455 serve 7 -- Slow": False,
        "(ServeController pid=7)   because": False,
        "2026-11-22 03:53:12,498\tSUCC scripts.py:546 -- Submitted.": True,
        "2026-11-22 03:53:12,498\tERROR scripts.py:546 -- Failed.": False,
        "Traceback (most recent call last):": False,
        "  File 'x.py'": False,
        "INFORMATION of a model": False,
        "(ServeReplica:a:Model pid=9) WARNING: All log messages before absl::InitializeLog": True,
        "(ServeReplica:a:Model pid=9) I0000 00:00:1795992131.288873 5605 port.cc:153] oneDNN": True,
        "(ServeReplica:a:Model pid=9) W0000 00:00:1795992131.288873 5605 port.cc:153] Slow": False,
        "(ServeReplica:a:Model pid=9) I0 is what a model prints": False,
        "(ServeController pid=7) WARNING 2026-11-22 03:53:02,455 controller 7 -- HTTPOptions.host="
        "'127.0.0.1' won't accept connections from HAProxy on other nodes; set it": True,
    }
    progress = ProgressFilter()
    assert {line: progress.hides(line) for line in lines} == lines


def test_long_message_keeps_its_first_and_last_lines() -> None:
    lines = [str(number) for number in range(20)]
    assert shorten(lines, last=2) == ["0", "[17 lines; all: `serve status`]", "18", "19"]
    assert shorten(lines[:4], last=2) == lines[:4]


ECHO_APP = """
import time

from ray import serve
from starlette.requests import Request
from starlette.responses import PlainTextResponse


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Model:
    async def __call__(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("echo")


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Broken:
    def __init__(self) -> None:
        raise ValueError("no such model file")


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Slow:
    def __init__(self) -> None:
        time.sleep(60)


app = Model.bind()
slow = Slow.bind()
broken = Broken.bind()
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{http_options: {port: '80'}, applications: [{name: a, import_path: 'a:b'}]}", "port"),
        ("applications: [{name: a, import_path: 'a:b', args: 5}]", "applications[a].args"),
        ("applications: [{name: a}]", "Field required - at `applications[a].import_path`"),
        (
            "applications: [{name: a, import_path: 'a:b'}, {name: a, import_path: 'a:b'}]",
            "remove all duplicates: got [{'name': 'a', 'import_path': 'a:b'}, ",
        ),
        (
            "applications: [{import_path: 'a:b', deployments: [{name: M, num_replicas: 0}]}]",
            "at `applications[0].deployments[M].num_replicas`",
        ),
    ],
)
def test_what_serve_would_refuse_is_one_line_before_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    config = tmp_path / "app.yaml"
    config.write_text(text)
    assert main(["serve", str(config)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("rayserve-app: ")
    assert message in output.err
    assert output.err.count("\n") == 1


@dataclass
class Server:
    """One set of ports and directories; `start` runs the command on it in a pseudo-terminal."""

    config: Path
    http_port: int
    environment: dict[str, str]
    supervisors: list[psutil.Process] = field(default_factory=list)

    def write_config(self, *applications: str) -> None:
        options = f"{{host: 127.0.0.1, port: {self.http_port}}}"
        items = [f"- {application}" for application in applications]
        lines = [f"http_options: {options}", "applications:", *items]
        self.config.write_text("\n".join(lines))

    def start_second(self) -> subprocess.CompletedProcess[str]:
        command = [RAYSERVE_APP, "serve", str(self.config)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True)

    def start(self) -> pexpect.spawn[str]:
        terminal: pexpect.spawn[str] = pexpect.spawn(
            RAYSERVE_APP,
            ["serve", str(self.config)],
            env=self.environment,
            encoding="utf-8",
            timeout=READY_TIMEOUT_S,
            dimensions=(50, 300),
        )
        # pytest shows it when the test fails.
        terminal.logfile_read = sys.stdout
        self.supervisors.append(psutil.Process(terminal.pid))
        return terminal


ECHO = "{name: echo, route_prefix: /echo, import_path: 'echo_app:app'}"
SLOW = "{name: slow, route_prefix: /slow, import_path: 'echo_app:slow'}"
BROKEN = "{name: broken, route_prefix: /broken, import_path: 'echo_app:broken'}"


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now, below those that the system gives to outgoing connections."""
    ports: list[int] = []
    for number in range(20000 + os.getpid() % 5000, 30000):
        if not is_taken(Port(number, "", "")):
            ports.append(number)
        if len(ports) == count:
            break
    return ports


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Free ports, and a home and a temporary directory of the test's own."""
    http, stats, metrics, fallback, dashboard_metrics, autoscaler_metrics = free_ports(6)
    # Below tmp_path the names of Ray's sockets would be longer than the 107 bytes they may have.
    ray_directory = Path(tempfile.mkdtemp(prefix="ray"))
    (tmp_path / "echo_app.py").write_text(ECHO_APP)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("RAY_")
    } | {
        "HOME": str(tmp_path),
        "PYTHONPATH": str(tmp_path),
        "RAY_TMPDIR": str(ray_directory),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "DASHBOARD_METRIC_PORT": str(dashboard_metrics),
        "AUTOSCALER_METRIC_PORT": str(autoscaler_metrics),
    }
    server = Server(tmp_path / "app.yaml", http, environment)
    server.write_config(ECHO)
    yield server
    for supervisor in server.supervisors:
        if supervisor.is_running():
            send_signal([supervisor, *supervisor.children(recursive=True)], signal.SIGKILL)
    shutil.rmtree(ray_directory, ignore_errors=True)


def all_processes(terminal: pexpect.spawn[str]) -> list[psutil.Process]:
    """The supervisor and everything below it."""
    supervisor = psutil.Process(terminal.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def names(processes: list[psutil.Process]) -> set[str]:
    return {name for process in processes if (name := name_of(process))}


def name_of(process: psutil.Process) -> str | None:
    """None if it has ended since it was found, as what Ray starts for a moment may at any time."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name()
    return None


def niceness_of(processes: list[psutil.Process], start: str) -> int:
    """Return the niceness of the one whose name starts so."""
    return next(
        process.nice() for process in processes if (name_of(process) or "").startswith(start)
    )


def check_ends(
    terminal: pexpect.spawn[str],
    processes: list[psutil.Process],
    *,
    within_s: float,
    exit_status: int,
) -> str:
    """Wait for the end; nothing is left. Returns: what was printed from now on."""
    started_s = time.monotonic()
    terminal.expect(pexpect.EOF, timeout=30)
    terminal.close()
    took_s = time.monotonic() - started_s
    assert terminal.exitstatus == exit_status
    assert [process for process in processes if process.is_running()] == []
    assert took_s < within_s
    text: str = terminal.before
    assert "warning" not in text.lower()
    assert "Traceback" not in text
    return text


@pytest.mark.serve
def test_serves_until_ctrl_c(server: Server) -> None:
    """Ready message, a request, a failed application, a second start, Ctrl-C."""
    server.write_config(ECHO, BROKEN)
    terminal = server.start()
    terminal.expect(r"broken is DEPLOY_FAILED:")
    terminal.expect(r"ValueError: no such model file")
    terminal.expect(r"Ready after \d+ s, but 1 failed\.")
    terminal.expect(rf"curl (http://127\.0\.0\.1:{server.http_port}/echo)")
    url = terminal.match[1]
    terminal.expect(r"http://\S+/metrics")
    metrics_url = terminal.match[0]
    terminal.expect(r"(http://\S+)/api/prometheus/sd")
    terminal.expect("Stop: +Ctrl-C")
    assert httpx.get(url).text == "echo"
    assert "haproxy_process_" in httpx.get(metrics_url).text
    processes = all_processes(terminal)
    assert names(processes) >= {"haproxy", "raylet", "gcs_server"}
    # Ray's own would be 15 more: requests would wait for every daemon of the machine.
    assert niceness_of(processes, "haproxy") == psutil.Process().nice()
    (folder,) = {
        Path(part).parents[1]
        for process in processes
        if name_of(process) == "haproxy"
        for part in process.cmdline()
        if part.endswith("/launched.cfg")
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert niceness_of(processes, "ray::ServeReplica") == psutil.Process().nice()

    second = server.start_second()
    assert second.returncode == 3
    assert second.stdout == ""
    assert f"Port {server.http_port} (HTTP) is taken by pid " in second.stderr
    assert "haproxy" in second.stderr
    assert httpx.get(url).text == "echo"

    terminal.sendintr()
    check_ends(terminal, processes, within_s=STOP_LIMIT_S, exit_status=0)
    assert not folder.exists()


@pytest.mark.serve
def test_haproxy_of_a_killed_run_is_stopped_and_a_second_ctrl_c_kills(server: Server) -> None:
    terminal = server.start()
    terminal.expect("Stop: +Ctrl-C")
    processes = all_processes(terminal)
    haproxies = [process for process in processes if name_of(process) == "haproxy"]
    others = [process for process in processes if process not in haproxies]
    # At one moment, as on a machine that runs out of memory: one that sees another end first would
    # stop HAProxy in order.
    send_signal(others, signal.SIGSTOP)
    send_signal(others, signal.SIGKILL)
    terminal.expect(pexpect.EOF)
    terminal.close()
    psutil.wait_procs(others, timeout=5)
    left = [process.pid for process in haproxies if process.is_running()]
    assert left

    terminal = server.start()
    terminal.expect(r"Stopped an HAProxy that an earlier run left behind \(pid (\d+)")
    assert int(terminal.match[1]) in left
    terminal.expect("Stop: +Ctrl-C")
    assert httpx.get(f"http://127.0.0.1:{server.http_port}/echo").text == "echo"
    processes = all_processes(terminal)
    terminal.sendintr()
    terminal.expect("Stopping")
    time.sleep(0.8)
    terminal.sendintr()
    check_ends(terminal, processes, within_s=KILL_LIMIT_S, exit_status=130)


@pytest.mark.serve
def test_sigterm_ends_it_while_it_starts(server: Server) -> None:
    server.write_config(SLOW)
    terminal = server.start()
    terminal.expect("Waiting for slow")
    processes = all_processes(terminal)
    os.kill(terminal.pid, signal.SIGTERM)
    check_ends(terminal, processes, within_s=STOP_LIMIT_S, exit_status=0)


@pytest.mark.serve
def test_killed_supervisor_takes_serve_along(server: Server) -> None:
    terminal = server.start()
    terminal.expect("Stop: +Ctrl-C")
    processes = all_processes(terminal)
    assert "haproxy" in names(processes)
    os.kill(terminal.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []


@pytest.mark.serve
def test_end_of_serve_itself_is_told_with_its_last_lines(server: Server) -> None:
    terminal = server.start()
    terminal.expect("Starting Serve with ")
    terminal.expect(["Waiting for echo", "Ready after"])
    for process in psutil.Process(terminal.pid).children():
        if "ray.serve.scripts" in process.cmdline():
            process.kill()
    terminal.expect(r"`serve run` ended by itself \(signal 9\)\. Its last lines:")
    terminal.expect("    .+")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 1
