"""The servers of others: what drives them, against a small server of the standard library, and what
each is sent and answers."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from email import message_from_bytes
from pathlib import Path
from typing import Any

import psutil
import pytest

from rayserve_app.bench import peer_figures, peer_servers, pictures
from rayserve_app.bench.figure import Effort, MeasurementFailed
from rayserve_app.bench.instance import NotReady
from rayserve_app.bench.load import Load, fetch
from rayserve_app.bench.peer_servers import (
    BASE64,
    FAST,
    JOBS,
    PREDICT,
    PROGRAMS,
    SLOW,
    Peer,
    PeerServer,
    Place,
    Route,
    raw,
    require_environments,
    running,
)
from rayserve_app.cli import main
from rayserve_app.errors import ConfigurationError

PEERS = [peer for peers in JOBS.values() for peer in peers]
BODY = (b"body", "text/plain")

SERVER = """
import json, os, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = json.dumps([self.path, self.headers["Content-Type"], body.decode()]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass

# A worker, as the servers have them, that ignores what would end it.
code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
worker = subprocess.Popen([sys.executable, "-c", code])
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def peer(command: Callable[[Place], list[str]]) -> Peer:
    routes = {PREDICT: Route("/answer", raw, json.loads), "other": Route("/other", raw, bytes)}
    return Peer("Standard", command, routes, {"GREETING": "hello"})


def in_python(code: str) -> Peer:
    return peer(lambda place: [sys.executable, "-c", code, str(place.port)])


async def ask(server: PeerServer) -> Any:
    return json.loads((await fetch(server.target(*BODY))).body)


async def test_a_server_answers_until_all_its_processes_are_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_servers, "STOP_TIMEOUT_S", 0.5)
    with running(in_python(SERVER)) as server:
        await server.wait_until_ready(*BODY)
        assert await ask(server) == ["/answer", "text/plain", "body"]
        found = psutil.Process().children(recursive=True)
    assert len(found) == 2
    assert not any(psutil.pid_exists(each.pid) for each in found)


def statuses() -> set[str]:
    return {each.status() for each in psutil.Process().children(recursive=True)}


async def test_a_suspended_server_waits_and_can_still_be_ended() -> None:
    with running(in_python(SERVER)) as server:
        await server.wait_until_ready(*BODY)
        server.suspend()
        give_up_at = time.monotonic() + 10
        while statuses() != {psutil.STATUS_STOPPED}:  # a signal takes its time
            assert time.monotonic() < give_up_at
            await asyncio.sleep(0.01)
        server.resume()
        assert await ask(server) == ["/answer", "text/plain", "body"]
        server.suspend()
    assert psutil.Process().children(recursive=True) == []


async def test_servers_are_measured_in_turn_once_their_answers_are_alike() -> None:
    with running(in_python(SERVER)) as ours, running(in_python(SERVER)) as theirs:
        for server in (ours, theirs):
            await server.wait_until_ready(*BODY)
        target = ours.target(*BODY, "other")
        servers = {"Standard": theirs}
        await peer_figures.check_answers(target, servers, *BODY, "other", bytes)
        with pytest.raises(MeasurementFailed, match="Standard answers"):
            await peer_figures.check_answers(target, servers, b"more", "text/plain", "other", bytes)
        loads = await peer_figures.closed_loops(
            target, servers, lambda each: each.target(*BODY), Effort(2, 0.1), 0.1, 1
        )
    assert [(name, len(of_one)) for name, of_one in loads.items()] == [("ours", 2), ("Standard", 2)]
    assert all(load.rate > 0 for of_one in loads.values() for load in of_one)


async def test_a_server_that_ends_is_not_ready_and_says_why() -> None:
    """With the variables of its job."""
    code = "import os; raise SystemExit(os.environ['GREETING'])"
    with (
        running(in_python(code)) as server,
        pytest.raises(NotReady, match="Standard is not ready:\nhello"),
    ):
        await server.wait_until_ready(b"", "text/plain")


def test_a_server_has_a_folder_and_a_home_of_its_own() -> None:
    folders = []

    def command(place: Place) -> list[str]:
        folders.append(place.folder)
        code = "import os, pathlib; pathlib.Path(os.environ['HOME'], 'x').touch()"
        return [sys.executable, "-c", code]

    with running(peer(command)):
        assert folders[0].is_dir()
    assert not folders[0].exists()


def test_what_is_not_installed_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("litserve", "bentoml"):
        python = tmp_path / package / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.touch()
    with pytest.raises(
        ConfigurationError, match=r"MLServer is not installed .* `make bench-peers`"
    ):
        require_environments(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["bench-peers"]) == 1
    assert "LitServe is not installed" in capsys.readouterr().err


def test_a_label_tells_the_installed_version(tmp_path: Path) -> None:
    packages = tmp_path / "litserve" / "lib" / "python3.11" / "site-packages"
    (packages / "litserve-0.2.19.dist-info").mkdir(parents=True)
    (packages / "litserve").mkdir()
    assert JOBS["sizes"][0].label(tmp_path) == "LitServe 0.2.19"
    assert JOBS["sizes"][1].label(tmp_path) == "BentoML"


@pytest.mark.parametrize(
    "each", PEERS, ids=[f"{job}-{each.name}" for job, peers in JOBS.items() for each in peers]
)
def test_every_peer_is_pinned_and_runs_a_program_that_is_there(each: Peer, tmp_path: Path) -> None:
    pins = (PROGRAMS / f"{each.package}.txt").read_text().splitlines()
    requirements = [line for line in pins if not line.startswith("#")]
    assert any(line.startswith(f"{each.package}==") for line in requirements)
    assert all("==" in line for line in requirements)
    command = " ".join(each.command(Place(tmp_path / "bin", tmp_path, 1234)))
    written = " ".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "1234" in command + written
    (program,) = PROGRAMS.glob(f"{each.package}_*.py")
    assert program.stem in command + written


def test_no_program_has_the_name_of_a_package_it_imports() -> None:
    """Each finds the others' folder first."""
    assert {path.stem for path in PROGRAMS.glob("*.py")} & {each.package for each in PEERS} == set()


def test_images_are_sent_as_each_takes_them() -> None:
    png = (b"\x89PNG", "image/png")
    litserve, bentoml, mlserver = (each.routes[PREDICT].wrap(*png) for each in JOBS["sizes"])
    assert litserve == bentoml == png
    (tensor,) = json.loads(mlserver[0])["inputs"]
    assert (tensor["shape"], tensor["datatype"]) == ([1, 1], "BYTES")
    assert b64decode(tensor["data"][0]) == png[0]
    for each in JOBS["sizes"][:2]:
        body, content_type = each.routes[BASE64].wrap(*png)
        assert content_type == "application/json"
        assert b64decode(json.loads(body)["image"]) == png[0]


def test_bentoml_gets_an_image_to_batch_as_a_file_of_a_form() -> None:
    body, content_type = JOBS["network"][1].routes[PREDICT].wrap(b"\xff\xd8JPEG", "image/jpeg")
    message = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    (part,) = message.get_payload()
    assert part.get_param("name", header="content-disposition") == "images"
    assert part.get_filename()
    assert part.get_payload(decode=True) == b"\xff\xd8JPEG"


def test_results_are_read_from_each_ones_answer() -> None:
    tensor = {"outputs": [{"name": "sizes", "shape": [1, 2], "datatype": "INT64", "data": [8, 9]}]}
    assert read(JOBS["sizes"], [8, 9], [8, 9], tensor) == [[8, 9]] * 3
    tensor["outputs"][0] |= {"shape": [1, 1], "data": [17]}
    assert read(JOBS["batches"], 17, [17], tensor) == [17] * 3
    tensor["outputs"][0] |= {"shape": [1, 2], "data": [0.5, 0.25]}
    assert read(JOBS["network"], [0.5, 0.25], [[0.5, 0.25]], tensor) == [[0.5, 0.25]] * 3
    npy = b"\x93NUMPY"
    text = json.dumps({"outputs": [{"data": [b64encode(npy).decode()]}]}).encode()
    bodies = zip(JOBS["large answers"], (npy, npy, text), strict=True)
    assert [each.routes[PREDICT].read(body) for each, body in bodies] == [npy] * 3


def read(peers: Sequence[Peer], *answers: Any) -> list[Any]:
    bodies = [json.dumps(answer).encode() for answer in answers]
    return [each.routes[PREDICT].read(body) for each, body in zip(peers, bodies, strict=True)]


def test_both_neighbours_are_models_of_one_server(tmp_path: Path) -> None:
    assert {tuple(each.routes) for each in JOBS["neighbours"]} == {(FAST, SLOW)}
    JOBS["neighbours"][2].command(Place(tmp_path / "bin", tmp_path, 1234))
    pools = [
        json.loads(path.read_text())["parameters"]["inference_pool_gid"]
        for path in tmp_path.glob("*/model-settings.json")
    ]
    assert sorted(pools) == [FAST, SLOW]


def test_answers_are_alike_however_numbers_are_nested() -> None:
    assert peer_figures.are_alike([[0.1, 2]], [0.1000001, 2])
    assert not peer_figures.are_alike([0.1, 2], [0.2, 2])
    assert not peer_figures.are_alike([1, 2], [1, 2, 3])
    assert peer_figures.are_alike(b"npy", bytearray(b"npy"))
    assert not peer_figures.are_alike(b"npy", b"np")


def loads(*rates: int, latency_s: float = 0.002) -> list[Load]:
    return [Load([latency_s] * rate, 0, 0, 1.0, 0.0) for rate in rates]


def test_our_rate_is_compared_with_each_and_with_the_best_of_each_round() -> None:
    measured = {
        "ours": loads(80, 40, 40),
        "A": loads(10, 20, 10),
        "B": loads(20, 10, 10),
        "C": loads(5, 5, 5),
    }
    best = peer_figures.best_row("PNG", measured, peer_figures.OF_BEST[pictures.PNG])
    assert (best.case, best.measured) == ("PNG, the best model API", 4)
    assert best.is_reached
    rows = {row.case: row.measured for row in peer_figures.rate_rows("PNG", measured)}
    assert rows == {"PNG, A": 4, "PNG, B": 4, "PNG, C": 8}


def test_times_are_theirs_over_ours() -> None:
    measured = {"ours": loads(1, latency_s=0.05), "A": loads(1, latency_s=0.2)}
    (row,) = peer_figures.time_rows("54.8 MB", measured, lambda load: load.percentile(50))
    assert (row.case, row.measured) == ("54.8 MB, A", 4)
