"""How long requests hold up an event loop: the time that each of its callbacks computes.

It is processor time of the loop's own thread, which other threads and processes do not lengthen. It
does not see a loop that waits for the GIL while another thread holds it. The models run in a
process of their own, as a replica's does: what others leave in the heap makes some steps take
longer.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from asyncio import events
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import sleep, thread_time
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.internals.connection import Connections
from rayserve_app.app import create_app
from rayserve_app.bench.served import mount, serving
from rayserve_app.errors import ServingError
from rayserve_app.importing import import_from_string
from rayserve_app.inference.backend import Backend
from rayserve_app.inference.model import Model
from rayserve_app.operations.server.settings import serve_variables
from rayserve_app.settings.model import ModelSettings
from rayserve_app.types import Metadata, Outputs
from rayserve_app.web import messages

MOST_S: Final = 1e-3
"""What a step may take: nothing that takes longer runs on a replica's event loop."""

REPEATS, REPEATS_AT_ONCE = 20, 5
PAUSE_S: Final = 1.0
"""Between so many repeats, for a machine that is slow for a while."""

ANY_STATUS: Final = 0


class Request(NamedTuple):
    """One request to one of the models, below its prefix."""

    model: str
    path: str
    body: bytes = b""
    content_type: str | None = "application/json"
    headers: Mapping[str, str] = {}
    status: int | None = 200
    """Of the answer; None for any but an error of the server's own, ANY_STATUS for that too."""
    method: str = "POST"


class Step(NamedTuple):
    """One callback of a loop: an event of a socket, a timer, or a task between two waits."""

    seconds: float
    what: str

    def __str__(self) -> str:
        return f"{self.seconds * 1e3:.2f} ms in {self.what}"


class LoopProbe:
    """Measures the loop in which an ASGI app is called."""

    def __init__(self) -> None:
        self._restart()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle = threading.Event()

    @property
    def answers(self) -> dict[str, Callable[[], Any]]:
        """What a probe can be asked: to `restart`, and for the `longest` step since."""
        return {"restart": self._restart, "longest": self._find_longest}

    def _restart(self) -> None:
        self._longest = Step(0.0, "nothing")

    def _find_longest(self) -> Step:
        """Return the longest step when all that has come by now is done."""
        loop = self._loop
        assert loop is not None, "no request has come"
        self._idle.clear()
        # The answer's last bytes are written before the last step has ended.
        loop.call_soon_threadsafe(loop.call_soon, self._idle.set)
        assert self._idle.wait(10)
        return self._longest

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return the app, which tells which loop it runs in."""

        async def probed(scope: Scope, receive: Receive, send: Send) -> None:
            self._loop = asyncio.get_running_loop()
            await app(scope, receive, send)

        return probed

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Measure as long as this lasts, without the garbage collector, whose pauses are nobody's
        own."""
        run = events.Handle._run

        def run_measured(handle: asyncio.Handle) -> None:
            if handle._loop is not self._loop:  # type: ignore[attr-defined]
                run(handle)
                return
            before = _place(handle)
            started_at = thread_time()
            run(handle)
            seconds = thread_time() - started_at
            if seconds > self._longest.seconds:
                self._longest = Step(seconds, f"{before}, up to {_place(handle)}")

        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            with patch.object(events.Handle, "_run", run_measured):
                yield
        finally:
            gc.enable()
            gc.unfreeze()


def _place(handle: Any) -> str:
    """Return where a callback begins to run, or has got to: of a task the innermost coroutines that
    are waiting."""
    callback = handle._callback
    task = getattr(callback, "__self__", None)
    if not isinstance(task, asyncio.Task):
        return getattr(callback, "__qualname__", repr(callback))
    names = []
    waiting: Any = task.get_coro()
    while (name := getattr(waiting, "__qualname__", None)) is not None:
        names.append(name)
        waiting = getattr(waiting, "cr_await", None)
    return " > ".join(names[-3:])


def longest_step(
    ask: Callable[[str], Any],
    port: int,
    requests: Sequence[Request],
    *,
    connections: int = 1,
    most_s: float = MOST_S,
) -> Step:
    """Return the longest step that the requests take every time: what the machine holds up is not
    held up every time.

    Args:
        ask: does what a probe is asked for.
        most_s: one round of steps that are no longer is enough.
    """
    found: list[Step] = []
    for number in range(REPEATS):
        if number and number % REPEATS_AT_ONCE == 0:
            sleep(PAUSE_S)
        ask("restart")
        with ThreadPoolExecutor(connections) as clients:
            parts = [requests[start::connections] for start in range(connections)]
            for _ in clients.map(lambda part: send(port, part), parts):
                pass
        found.append(ask("longest"))
        if found[-1].seconds <= most_s:
            break
    return min(found)


def send(port: int, requests: Sequence[Request]) -> None:
    """Send requests over one connection; their answers must have the status that they say."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    for model, path, body, content_type, headers, status, method in requests:
        more = {} if content_type is None else {"content-type": content_type}
        connection.request(method, f"/{model}{path}", body, {**headers, **more})
        response = connection.getresponse()
        start = response.read(500)
        while response.read(1 << 20):
            pass
        if status is None:
            assert response.status < 500, start
        elif status != ANY_STATUS:
            assert response.status == status, start
    connection.close()


class FunctionBackend(Backend):
    """A function of a list of items."""

    def __init__(
        self, function: Callable[[Sequence[Any]], Outputs], metadata: Metadata | None = None
    ) -> None:
        self._function = function
        self._metadata = metadata or Metadata(platform="function")

    def load(self) -> None:
        return

    def predict(self, items: Sequence[Any]) -> Outputs:
        return self._function(items)

    def metadata(self) -> Metadata:
        return self._metadata


class Probed(NamedTuple):
    """A model that is served: a function, its input as settings have it, and more of them."""

    function: Callable[[Sequence[Any]], Outputs]
    input: Mapping[str, Any]
    metadata: Metadata | None = None
    others: Mapping[str, Any] = {}

    def model(self, name: str) -> Model:
        settings = {
            "input": self.input,
            "batching": {"max_batch_size": 16},
            "limits": {"max_queued_items": 10_000},
            "threads": {"decode": 2},
            "warm_up": False,
            **self.others,
        }
        backend = FunctionBackend(self.function, self.metadata)
        model = Model(ModelSettings.model_validate(settings), backend, name=name)
        model.load()
        model.warm_up()
        return model


class ProbedModels:
    """The process, seen from another."""

    def __init__(self, questions: Connection) -> None:
        self._questions = questions
        self.port: int = questions.recv()

    def ask(self, question: str) -> Any:
        """Have the process `restart` the probe, tell its `longest` step since, `collect` garbage,
        which it does not by itself, or tell the kinds of requests and errors that are `held`."""
        self._questions.send(question)
        return self._questions.recv()


@contextmanager
def probed_models(where: str) -> Iterator[ProbedModels]:
    """Serve `Probed` models, each below its name, for as long as this lasts.

    Args:
        where: the import string of a mapping from their names.
    """
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe()
    with patch.dict(os.environ, serve_variables(None)):
        process = spawn.Process(target=_serve, args=(where, theirs), daemon=True)
        process.start()
    theirs.close()
    try:
        yield ProbedModels(ours)
    finally:
        ours.close()
        process.join(10)
        process.kill()


def _held() -> list[str]:
    kinds = (messages.Request, ServingError, messages.ClientDisconnected)
    return [type(each).__name__ for each in gc.get_objects() if isinstance(each, kinds)]


def _serve(where: str, questions: Connection) -> None:
    """Serve until nobody can ask any more."""
    declared: Mapping[str, Probed] = import_from_string(where)
    models = [each.model(name) for name, each in declared.items()]
    apps = {
        model.name: mount(create_app(model, takes_views=lambda _: True), f"/{model.name}")
        for model in models
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await apps[scope["path"].split("/")[1]](scope, receive, send)

    probe = LoopProbe()
    answers = {**probe.answers, "collect": gc.collect, "held": _held}
    connections = Connections(app, lambda _: None)
    with (
        probe.watching(),
        serving(probe.around(app), loop="asyncio", http=connections) as port,
    ):
        questions.send(port)
        try:
            while True:
                questions.send(answers[questions.recv()]())
        except EOFError:
            pass
    for model in models:
        model.close()
