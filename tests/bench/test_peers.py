"""What drives the servers of others, against a small server of the standard library."""

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

from rayserve_app.bench import peer_servers, pictures
from rayserve_app.bench.figures.figure import MeasurementFailed
from rayserve_app.bench.instance import NotReady
from rayserve_app.bench.networks import WEIGHTS_VARIABLE
from rayserve_app.bench.peer_figures.comparison import (
    Contender,
    check_answers,
    closed_loops,
)
from rayserve_app.bench.peer_servers import (
    PREDICT,
    PROGRAMS,
    Peer,
    PeerServer,
    Place,
    Route,
    require_environments,
)
from rayserve_app.bench.peer_subjects import (
    BASE64,
    BATCHERS,
    DECODERS,
    FAST,
    HANDLER,
    LARGE_ANSWERS,
    MODEL_APIS,
    NEIGHBOURS,
    SLOW,
    networks,
    raw,
)
from rayserve_app.bench.rounds import Effort
from rayserve_app.cli import main
from rayserve_app.errors import ConfigurationError

NETWORKS = networks(Path("/models/network.safetensors"))
JOBS = {
    "size": (*MODEL_APIS, HANDLER),
    "batches": BATCHERS,
    "network": NETWORKS,
    "large": LARGE_ANSWERS,
    "decode": DECODERS,
    "neighbours": NEIGHBOURS,
}
PEERS = [peer for peers in JOBS.values() for peer in peers]

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
    return Peer("Standard", "standard", command, routes, {"GREETING": "hello"})


def in_python(code: str) -> Peer:
    return peer(lambda place: [sys.executable, "-c", code, str(place.port)])


async def test_a_server_answers_until_all_its_processes_are_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_servers, "STOP_TIMEOUT_S", 0.5)
    with PeerServer(in_python(SERVER)) as server:
        await server.wait_until_ready(b"body", "text/plain")
        assert await server.answer(b"body", "text/plain") == ["/answer", "text/plain", "body"]
        assert await server.answer(b"", "text/plain", "other") == b'["/other", "text/plain", ""]'
        assert server.cpu_seconds() > 0
        found = psutil.Process().children(recursive=True)
    assert len(found) == 2
    assert not any(psutil.pid_exists(each.pid) for each in found)


def statuses() -> set[str]:
    return {each.status() for each in psutil.Process().children(recursive=True)}


async def test_a_suspended_server_waits_and_can_still_be_ended() -> None:
    with PeerServer(in_python(SERVER)) as server:
        await server.wait_until_ready(b"body", "text/plain")
        server.suspend()
        give_up_at = time.monotonic() + 10
        while statuses() != {psutil.STATUS_STOPPED}:  # a signal takes its time
            assert time.monotonic() < give_up_at
            await asyncio.sleep(0.01)
        server.resume()
        assert await server.answer(b"body", "text/plain") == ["/answer", "text/plain", "body"]
        server.suspend()
    assert psutil.Process().children(recursive=True) == []


async def test_servers_are_measured_in_turn_once_their_answers_are_alike() -> None:
    with PeerServer(in_python(SERVER)) as ours, PeerServer(in_python(SERVER)) as theirs:
        for server in (ours, theirs):
            await server.wait_until_ready(b"body", "text/plain")
        target = ours.target(b"body", "text/plain", "other")
        await check_answers(target, [theirs], b"body", "text/plain", "other", bytes)
        with pytest.raises(MeasurementFailed, match="Standard answers"):
            await check_answers(target, [theirs], b"more", "text/plain", "other", bytes)
        contenders = [
            Contender("ours", target),
            Contender("Standard", theirs.target(b"body", "text/plain"), theirs),
        ]
        turns = await closed_loops("case", contenders, Effort(2, 0.1), 0.1, connections=1)
    assert [(name, len(of_one)) for name, of_one in turns.items()] == [("ours", 2), ("Standard", 2)]
    assert all(turn.load.rate > 0 for of_one in turns.values() for turn in of_one)


async def test_a_server_gets_the_variables_of_its_job() -> None:
    code = "import os; raise SystemExit(os.environ['GREETING'])"
    with (
        PeerServer(in_python(code)) as server,
        pytest.raises(NotReady, match="Standard is not ready:\nhello"),
    ):
        await server.wait_until_ready(b"", "text/plain")


async def test_a_server_that_ends_is_not_ready_and_says_why() -> None:
    with (
        PeerServer(in_python("raise SystemExit('no such model')")) as server,
        pytest.raises(NotReady, match="Standard is not ready:\nno such model"),
    ):
        await server.wait_until_ready(b"", "text/plain")


def test_a_server_has_a_folder_and_a_home_of_its_own() -> None:
    folders = []

    def command(place: Place) -> list[str]:
        folders.append(place.folder)
        code = "import os, pathlib; pathlib.Path(os.environ['HOME'], 'x').touch()"
        return [sys.executable, "-c", code]

    with PeerServer(peer(command)):
        assert folders[0].is_dir()
    assert not folders[0].exists()


def test_what_is_not_installed_is_named_before_anything_starts(tmp_path: Path) -> None:
    for each in MODEL_APIS[:2]:
        python = tmp_path / each.package / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.touch()
    require_environments(MODEL_APIS[:2], tmp_path)
    with pytest.raises(
        ConfigurationError, match=r"MLServer is not installed .* `make bench-peers`"
    ):
        require_environments(MODEL_APIS, tmp_path)


def test_the_command_needs_the_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench-peers"]) == 1
    assert "LitServe is not installed" in capsys.readouterr().err


def test_a_label_tells_the_installed_version(tmp_path: Path) -> None:
    packages = tmp_path / "litserve" / "lib" / "python3.11" / "site-packages"
    (packages / "litserve-0.2.19.dist-info").mkdir(parents=True)
    (packages / "litserve").mkdir()
    assert MODEL_APIS[0].label(tmp_path) == "LitServe 0.2.19"
    assert MODEL_APIS[1].label(tmp_path) == "BentoML"


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
    programs = [path.stem for path in PROGRAMS.glob(f"{each.package}_*.py")]
    assert len(programs) == 1
    assert programs[0] in command + written


def test_no_program_has_the_name_of_a_package_it_imports() -> None:
    """Each finds the others' folder first."""
    assert {path.stem for path in PROGRAMS.glob("*.py")} & {each.package for each in PEERS} == set()


def test_mlserver_gets_an_image_as_a_base64_tensor() -> None:
    png = pictures.png(8)
    body, content_type = MODEL_APIS[2].routes[PREDICT].wrap(png, "image/png")
    (tensor,) = json.loads(body)["inputs"]
    assert content_type == "application/json"
    assert (tensor["shape"], tensor["datatype"]) == ([1, 1], "BYTES")
    assert tensor["parameters"] == {"content_type": "base64"}
    assert b64decode(tensor["data"][0]) == png


def test_others_get_an_image_as_it_is() -> None:
    for each in (*MODEL_APIS[:2], HANDLER):
        assert each.routes[PREDICT].wrap(b"\x89PNG", "image/png") == (b"\x89PNG", "image/png")


def test_all_model_apis_take_an_image_in_base64_json() -> None:
    for each in MODEL_APIS[:2]:
        body, content_type = each.routes[BASE64].wrap(b"\x89PNG", "image/png")
        assert content_type == "application/json"
        assert b64decode(json.loads(body)["image"]) == b"\x89PNG"
    assert MODEL_APIS[2].routes[BASE64] == MODEL_APIS[2].routes[PREDICT]


def test_bentoml_gets_an_image_to_batch_as_a_file_of_a_form() -> None:
    body, content_type = NETWORKS[1].routes[PREDICT].wrap(b"\xff\xd8JPEG", "image/jpeg")
    message = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    (part,) = message.get_payload()
    assert part.get_param("name", header="content-disposition") == "images"
    assert part.get_filename()
    assert part.get_content_type() == "image/jpeg"
    assert part.get_payload(decode=True) == b"\xff\xd8JPEG"


def test_results_are_read_from_each_ones_answer() -> None:
    tensor = {"outputs": [{"name": "sizes", "shape": [1, 2], "datatype": "INT64", "data": [8, 9]}]}
    assert read(MODEL_APIS, [8, 9], [8, 9], tensor) == [[8, 9]] * 3
    tensor["outputs"][0] |= {"shape": [1, 1], "data": [17]}
    assert read(BATCHERS, 17, [17], tensor) == [17] * 3
    tensor["outputs"][0] |= {"shape": [1, 2], "data": [0.5, 0.25]}
    assert read(NETWORKS, [0.5, 0.25], [[0.5, 0.25]], tensor) == [[0.5, 0.25]] * 3


def test_a_large_answer_is_read_as_bytes() -> None:
    npy = b"\x93NUMPY"
    tensor = {"outputs": [{"datatype": "BYTES", "data": [b64encode(npy).decode()]}]}
    bodies = (npy, npy, json.dumps(tensor).encode())
    found = [
        each.routes[PREDICT].read(body) for each, body in zip(LARGE_ANSWERS, bodies, strict=True)
    ]
    assert found == [npy] * 3


def read(peers: Sequence[Peer], *answers: Any) -> list[Any]:
    bodies = [json.dumps(answer).encode() for answer in answers]
    return [each.routes[PREDICT].read(body) for each, body in zip(peers, bodies, strict=True)]


def test_the_network_is_found_by_a_variable() -> None:
    for each in NETWORKS:
        assert each.variables == {WEIGHTS_VARIABLE: "/models/network.safetensors"}


def test_both_neighbours_are_models_of_one_server(tmp_path: Path) -> None:
    assert {tuple(each.routes) for each in NEIGHBOURS} == {(FAST, SLOW)}
    NEIGHBOURS[2].command(Place(tmp_path / "bin", tmp_path, 1234))
    pools = [
        json.loads(path.read_text())["parameters"]["inference_pool_gid"]
        for path in tmp_path.glob("*/model-settings.json")
    ]
    assert sorted(pools) == [FAST, SLOW]
