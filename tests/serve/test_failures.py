"""Models that fail: the documented answer, a replaced replica, and others that notice nothing."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import psutil
import pytest

from tests.serve.conftest import Server
from tests.serve.test_bad_input import DEADLINE, png

pytestmark = pytest.mark.serve


def ask(client: httpx.Client, word: str) -> httpx.Response:
    return client.post("/faulty/predict", json={"input": word})


@contextmanager
def steady_load(
    server: Server, path: str, body: bytes, content_type: str = "image/*"
) -> Iterator[list[int]]:
    """Send requests one after another to a model meanwhile; yields their statuses, 0 for none."""
    statuses: list[int] = []
    stopped = threading.Event()
    headers = {"content-type": content_type}

    def drive() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while not stopped.is_set():
                try:
                    statuses.append(client.post(path, content=body, headers=headers).status_code)
                except httpx.TransportError:
                    statuses.append(0)

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        yield statuses
    finally:
        stopped.set()
        thread.join()


def seconds_until(condition: Callable[[], bool], timeout_s: float) -> float:
    started_at = time.monotonic()
    while not condition():
        assert time.monotonic() - started_at < timeout_s
        time.sleep(0.25)
    return time.monotonic() - started_at


@pytest.mark.parametrize(
    ("word", "reason"),
    [("raise", "ValueError: no such word"), ("short", "Wrong number of results")],
)
def test_a_failing_closure_is_the_default_output(
    client: httpx.Client, word: str, reason: str
) -> None:
    answer = ask(client, word)
    assert answer.status_code == 200
    assert answer.json()["default"] is True
    assert answer.json()["output"] == -1.0
    assert reason in answer.json()["default_explanation"]
    container = client.post("/faulty/invocations", json=word)
    assert container.status_code == 500
    assert reason in container.json()["error"]
    assert ask(client, "fine").json()["output"] == "FINE"


def test_what_a_closure_raises_is_on_the_terminal_and_in_its_replicas_log(
    client: httpx.Client, server: Server
) -> None:
    ask(client, "raise")
    logs = server.folder / "ray" / "session_latest" / "logs" / "serve"

    def is_told() -> bool:
        files = [server.log, *logs.glob("replica_faulty_Model_*.log")]
        told = ["ValueError: no such word" in file.read_text() for file in files]
        return told[0] and any(told[1:])

    seconds_until(is_told, 20)


def processes_named(server: Server, name: str) -> list[psutil.Process]:
    """Return the server's processes of which Ray, or the program's file, begins the name so."""
    found = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            titles = (process.name(), "".join(process.cmdline()[:1]))
            if any(title.startswith(name) for title in titles):
                found.append(process)
    return found


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("haproxy", 3),
        ("rayserve-haprox", 0),
        ("ray::HAProxyManager", 0),
        ("ray::ProxyActor", 0),
        ("ray::ServeController", 0),
    ],
)
def test_no_process_between_clients_and_replicas_takes_the_others_down(
    client: httpx.Client, server: Server, name: str, lost: int
) -> None:
    """HAProxy's death loses what it was answering, of three clients, the others' nothing; changes
    arrive after it as before."""
    found = processes_named(server, name)
    before = {each.pid for each in found}
    # What launches HAProxy is two, of which the first is the one that Serve knows.
    newest = max(
        (each for each in found if each.ppid() not in before), key=lambda each: each.create_time()
    )
    with ExitStack() as stack:
        loads = [
            stack.enter_context(steady_load(server, "/image-example/invocations", png()))
            for _ in range(3)
        ]
        newest.kill()
        seconds_until(
            lambda: any(each.pid not in before for each in processes_named(server, name)), 60
        )
        time.sleep(1)
    statuses = [status for load in loads for status in load]
    assert set(statuses) <= {200, 0}, Counter(statuses)
    assert statuses.count(0) <= lost
    changed = server.application("image-example")["args"]["model"]
    changed["version"] = f"after {name}"
    seconds_until(lambda: is_applied(server), 60)
    seconds_until(lambda: version_of(client) == changed["version"], 90)
    time.sleep(5)  # the old replica drains


def version_of(client: httpx.Client) -> str | None:
    """Return what the model says of itself, None where it does not answer."""
    answer = client.get("/image-example")
    return answer.json()["version"] if answer.status_code == 200 else None


def is_applied(server: Server) -> bool:
    """Whether Serve takes the configuration, as it does once it has a controller."""
    try:
        server.apply(server.config)
    except httpx.HTTPError:
        return False
    return True


def status_of(client: httpx.Client, word: str) -> int:
    """Return the answer's status, 0 where the connection was closed without an answer."""
    try:
        return ask(client, word).status_code
    except httpx.RemoteProtocolError:
        return 0


def test_a_closure_that_kills_its_process(client: httpx.Client, server: Server) -> None:
    """Four callers wait when it ends: the one whose batch it is, and three in the queue.

    HAProxy answers 500 to those for whom it opened a connection to the replica, and closes the
    connections of those whose requests went out on one that it kept from earlier requests.
    """
    with steady_load(server, "/image-example/invocations", png()) as others:
        with ThreadPoolExecutor(4) as pool:
            in_flight = list(pool.map(lambda _: status_of(client, "exit"), range(4)))
        took_s = seconds_until(lambda: status_of(client, "fine") == 200, 60)
    assert set(in_flight) <= {500, 0}, in_flight
    assert took_s < 20, took_s
    assert ask(client, "fine").json()["output"] == "FINE"
    assert set(others) == {200}


def test_a_closure_that_hangs(client: httpx.Client, server: Server) -> None:
    """Callers get the deadline's answer; then that there is no model to ask, in the protocol's
    words; then a new replica."""
    statuses: list[int] = []

    def is_well() -> bool:
        statuses.append(status_of(client, "fine"))
        return ask(client, "fine").json().get("output") == "FINE"

    with steady_load(server, "/image-example/invocations", png()) as others:
        # A batch of six seconds is more than slow: three deadlines of 1.5 s, and five seconds.
        late = [ask(client, "hang").json() for _ in range(4)]
        meanwhile = ask(client, "fine")
        container = client.post("/faulty/invocations", json="fine")
        took_s = seconds_until(is_well, 90)
    assert set(statuses) <= {200, 503}, statuses
    assert ask(client, "fine").json()["output"] == "FINE"
    assert [answer["default_explanation"] for answer in late] == [DEADLINE] * 4
    assert [answer["output"] for answer in late] == [-1.0] * 4
    assert meanwhile.json()["default_explanation"] == "No connected models found for query"
    assert container.status_code == 503
    assert int(container.headers["retry-after"]) > 0
    assert "about to be replaced" in container.json()["error"]
    assert took_s < 60, took_s
    assert set(others) == {200}
