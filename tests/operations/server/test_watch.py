"""What `rayserve-app serve` says while it watches, of a Serve instance that a test plays."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rayserve_app.operations.server import watch
from rayserve_app.operations.server.applications import read_applications
from rayserve_app.operations.server.settings import ServeConfig
from rayserve_app.operations.server.watch import Watch
from tests.servers import raw_server


class Serve:
    """Answers as Ray's dashboard, Serve's proxy and the applications behind it do; the answers'
    forms are those of Ray 2.60."""

    def __init__(self) -> None:
        self.applications: dict[str, Any] = {}
        self.routes: dict[str, str] = {}
        self.pages: dict[str, list[Any]] = {}
        """What an application answers at its prefix: JSON, a status, or "late"; the last one again
        and again."""
        self.free = 2.0
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                document = outer.answer(self.path)
                status = document if isinstance(document, int) else 200
                body = json.dumps(document).encode()
                with contextlib.suppress(OSError):  # who asked may have left
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=[0.01], daemon=True).start()

    def answer(self, path: str) -> Any:
        if path == "/api/serve/applications/":
            return {"applications": self.applications}
        if path == "/-/routes":
            return self.routes
        if path == "/api/cluster_status":
            usage = {"a": {"CPU": [2 - self.free, 2.0], "memory": [0.0, 1e9]}}
            return {"data": {"clusterStatus": {"loadMetricsReport": {"usageByNode": usage}}}}
        answers = self.pages.get(path, [404])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer == "late":
            self.released.wait(10)
        return answer

    def add(self, name: str, *page: Any, replicas: int = 1, ours: bool = True) -> None:
        self.routes[f"/{name}"] = name
        self.pages[f"/{name}"] = list(page)
        self.applications[name] = {
            "status": "RUNNING",
            "route_prefix": f"/{name}",
            "deployed_app_config": {
                "import_path": f"{'deployments.' if ours else ''}closure:build"
            },
            "deployments": {
                "Model": {
                    "status": "HEALTHY",
                    "deployment_config": {"ray_actor_options": {"num_cpus": 0.9}},
                    "replicas": [{"state": "RUNNING", "node_id": "a"}] * replicas,
                }
            },
        }


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    serve = Serve()
    monkeypatch.setattr(watch, "POLL_S", 0)
    monkeypatch.setattr(watch, "POLL_READY_S", 0)
    monkeypatch.setattr(watch, "find_dashboard", lambda _: f"http://127.0.0.1:{serve.port}")
    yield serve
    serve.released.set()
    serve.server.shutdown()
    serve.server.server_close()


def watching(serve: Serve) -> Watch:
    config = ServeConfig(Path("a.yaml"), "127.0.0.1", serve.port, None, tuple(serve.applications))
    return Watch(config, {})


WARM, COLD = {"ready": True}, {"ready": False}


def test_a_model_that_warms_up_for_long_is_not_ready(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor when the watch has told that it waits, as it does after ten seconds."""
    monkeypatch.setattr(watch, "PROGRESS_S", 0)
    serve.add("slow", COLD, COLD, COLD, WARM)
    watched = watching(serve)
    for _ in range(3):
        watched.update()
    out = capsys.readouterr().out
    assert "slow: warming up" in out
    assert "Ready" not in out
    assert "is running" not in out
    watched.update()
    out = capsys.readouterr().out
    assert "slow is running" in out
    assert "Ready after" in out


@pytest.mark.parametrize("answer", ["late", 503])
def test_a_model_of_ours_that_does_not_answer_is_not_ready(
    serve: Serve, capsys: pytest.CaptureFixture[str], answer: Any
) -> None:
    serve.add("slow", answer, WARM)
    watched = watching(serve)
    watched.update()
    assert "Ready" not in capsys.readouterr().out
    watched.update()
    assert "Ready after" in capsys.readouterr().out


@pytest.mark.parametrize("answer", ["late", 503, 404, 401, [1], {"ready": "no"}])
def test_what_others_answer_is_theirs(
    serve: Serve, capsys: pytest.CaptureFixture[str], answer: Any
) -> None:
    serve.add("other", answer, ours=False)
    watching(serve).update()
    assert "Ready after" in capsys.readouterr().out


def test_each_replica_of_a_model_is_asked(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve.add("three", WARM, WARM, COLD, WARM, replicas=3)
    watched = watching(serve)
    watched.update()
    assert "Ready" not in capsys.readouterr().out
    watched.update()
    assert "Ready after" in capsys.readouterr().out


def test_a_model_that_is_added_later_is_told_when_it_is_warm(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve.add("first", WARM)
    watched = watching(serve)
    watched.update()
    serve.add("second", COLD, WARM)
    capsys.readouterr()
    watched.update()
    assert capsys.readouterr().out == ""
    watched.update()
    assert "second is running after" in capsys.readouterr().out


def start_new_replica(serve: Serve, name: str, *, age_s: float) -> None:
    application = serve.applications[name]
    application["status"] = "DEPLOYING"
    new = {"state": "STARTING", "start_time_s": time.time() - age_s}
    replicas = application["deployments"]["Model"]["replicas"]
    application["deployments"]["Model"]["replicas"] = [*replicas, new]


def test_an_update_without_room_is_told_while_it_waits(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve.add("a", WARM)
    serve.add("b", WARM)
    watched = watching(serve)
    watched.update()
    capsys.readouterr()
    serve.free = 0.6
    start_new_replica(serve, "a", age_s=60)
    watched.update()
    told = capsys.readouterr().out
    assert told.startswith(
        "a waits for room: a new replica asks for 0.9 CPU, of which 0.6 is free."
    )
    assert "The old ones serve on" in told
    assert "max_surge_percent" in told
    watched.update()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(watch, "WAITING_S", 0)
    serve.free = 0.1
    watched._next_waiting_s["a"] = 0
    watched.update()
    assert "of which 0.1 is free" in capsys.readouterr().out
    serve.add("a", WARM)
    watched.update()
    assert capsys.readouterr().out == "a does not wait for room any more.\n"


@pytest.mark.parametrize(("free", "age_s"), [(0.9, 60), (0.6, 1)], ids=["room", "at first"])
def test_a_replica_that_starts_is_not_told(
    serve: Serve, capsys: pytest.CaptureFixture[str], free: float, age_s: float
) -> None:
    """With room, it waits for its environment."""
    serve.add("a", WARM)
    watched = watching(serve)
    watched.update()
    capsys.readouterr()
    serve.free = free
    start_new_replica(serve, "a", age_s=age_s)
    watched.update()
    assert capsys.readouterr().out == ""


def test_a_first_replica_without_room_is_told_too(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve.add("a", 503, replicas=0)
    serve.free = 0.5
    start_new_replica(serve, "a", age_s=60)
    watching(serve).update()
    told = capsys.readouterr().out
    assert told == "a waits for room: a new replica asks for 0.9 CPU, of which 0.5 is free.\n"


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", b"what?\r\n\r\n"]
)
def test_a_dashboard_that_is_lost_amid_its_answer_has_said_nothing(answer: bytes) -> None:
    """And Serve goes on."""
    with raw_server(answer) as (port, _):
        assert read_applications(f"http://127.0.0.1:{port}") == {}
