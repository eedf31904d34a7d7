"""What drives the servers of others, against a small server of the standard library; and what is
made of the numbers."""

from __future__ import annotations

import json
import sys
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from rayserve_app.bench import peer_servers, pictures
from rayserve_app.bench.instance import NotReady
from rayserve_app.bench.load import PERCENTILES, Load
from rayserve_app.bench.peer_figures import (
    PEER_FIGURES,
    Picture,
    Turn,
    batching_rows,
    size_rows,
)
from rayserve_app.bench.peer_servers import (
    PROGRAMS,
    Peer,
    PeerServer,
    Place,
    require_environments,
)
from rayserve_app.bench.peer_subjects import BATCHERS, HANDLER, MODEL_APIS, raw
from rayserve_app.bench.report import Bound
from rayserve_app.bench.runner import choose
from rayserve_app.cli import main
from rayserve_app.errors import ConfigurationError

PEERS = (*MODEL_APIS, HANDLER, *BATCHERS)

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
    return Peer("Standard", "standard", command, "/answer", raw, lambda answer: answer)


def in_python(code: str) -> Peer:
    return peer(lambda place: [sys.executable, "-c", code, str(place.port)])


async def test_a_server_answers_until_all_its_processes_are_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_servers, "STOP_TIMEOUT_S", 0.5)
    with PeerServer(in_python(SERVER)) as server:
        await server.wait_until_ready(b"body", "text/plain")
        assert await server.answer(b"body", "text/plain") == ["/answer", "text/plain", "body"]
        assert server.cpu_seconds() > 0
        found = psutil.Process().children(recursive=True)
    assert len(found) == 2
    assert not any(psutil.pid_exists(each.pid) for each in found)


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


@pytest.mark.parametrize("each", PEERS, ids=lambda each: f"{each.name} {each.path}")
def test_every_peer_is_pinned_and_runs_a_program_that_is_there(each: Peer, tmp_path: Path) -> None:
    pins = (PROGRAMS / f"{each.package}.txt").read_text().splitlines()
    requirements = [line for line in pins if not line.startswith("#")]
    assert any(line.startswith(f"{each.package}==") for line in requirements)
    assert all("==" in line for line in requirements)
    command = " ".join(each.command(Place(tmp_path / "bin", tmp_path, 1234)))
    written = " ".join(path.read_text() for path in tmp_path.glob("*.json"))
    assert "1234" in command + written
    programs = [path.stem for path in PROGRAMS.glob(f"{each.package}_*.py")]
    assert len(programs) == 1
    assert programs[0] in command + written


def test_no_program_has_the_name_of_a_package_it_imports() -> None:
    """Each finds the others' folder first."""
    assert {path.stem for path in PROGRAMS.glob("*.py")} & {each.package for each in PEERS} == set()


def test_mlserver_gets_an_image_as_a_base64_tensor() -> None:
    png = pictures.png(8)
    body, content_type = MODEL_APIS[2].wrap(png, "image/png")
    (tensor,) = json.loads(body)["inputs"]
    assert content_type == "application/json"
    assert (tensor["shape"], tensor["datatype"]) == ([1, 1], "BYTES")
    assert tensor["parameters"] == {"content_type": "base64"}
    assert b64decode(tensor["data"][0]) == png


def test_others_get_an_image_as_it_is() -> None:
    for each in (*MODEL_APIS[:2], HANDLER):
        assert each.wrap(b"\x89PNG", "image/png") == (b"\x89PNG", "image/png")


def test_results_are_read_from_each_ones_answer() -> None:
    tensor = {"outputs": [{"name": "sizes", "shape": [1, 2], "datatype": "INT64", "data": [8, 9]}]}
    assert [
        each.read(answer) for each, answer in zip(MODEL_APIS, ([8, 9], [8, 9], tensor), strict=True)
    ] == [[8, 9]] * 3
    tensor["outputs"][0] |= {"shape": [1, 1], "data": [17]}
    assert [
        each.read(answer) for each, answer in zip(BATCHERS, (17, [17], tensor), strict=True)
    ] == [17] * 3


def turns(*rates: int) -> list[Turn]:
    return [Turn(Load([0.002] * rate, 0, 0, 1.0, 0.0), 1.5) for rate in rates]


def test_our_rate_is_compared_with_the_best_of_each_round() -> None:
    picture = Picture("PNG", b"", "image/png", 3)
    peers = {
        "A": turns(10, 20, 10),
        "B": turns(20, 10, 10),
        "C": turns(5, 5, 5),
        "handler": turns(40, 40, 40),
    }
    rows = {row.case: row for row in size_rows("PNG, c=16", turns(80, 40, 40), peers, picture)}
    apis, everything = rows["PNG, c=16, the best model API"], rows["PNG, c=16, the best of all"]
    assert (apis.measured, apis.target, apis.is_reached) == (4, Bound("at least", 3), True)
    assert (everything.measured, everything.is_reached) == (1, False)
    assert apis.details == {"our_per_s": 40, **{f"our_{name}": 2 for name in PERCENTILES}}
    assert rows["PNG, c=16, C"].measured == 8
    assert rows["PNG, c=16, C"].target is None
    assert rows["PNG, c=16, C"].details["its_cores"] == 1.5


def test_only_our_own_batcher_has_targets() -> None:
    loads = [Load([0.08] * 398, 1, 1, 1.0, 0.0)] * 3
    rows = list(batching_rows(400, {"ours": loads, "serve_batch": loads, "BentoML": loads}))
    assert [row.case for row in rows[::2]] == [
        "400/s, ours",
        "400/s, serve_batch",
        "400/s, BentoML",
    ]
    served, p50, *others = rows
    assert (served.measured, served.target) == (398, Bound("at least", 390))
    assert served.details == {"errors": 3, "unanswered": 3}
    assert (p50.measured, p50.target) == (80, Bound("at most", 95))
    assert {row.target for row in others} == {None}


def test_the_figures_can_be_chosen_by_name() -> None:
    assert [each.name for each in choose(["peers-batching"], PEER_FIGURES)] == ["peers-batching"]
    with pytest.raises(ConfigurationError, match="peers-image-size or peers-batching"):
        choose(["gateway"], PEER_FIGURES)
