"""How long an event loop is held up: the time that each of its callbacks computes.

It is processor time of the loop's own thread, which other threads and processes do not lengthen. It
does not see a loop that waits for the GIL while another thread holds it.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from asyncio import events
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from time import sleep, thread_time
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from starlette.types import ASGIApp, Receive, Scope, Send

from rayserve_app.bench.event_loop.requests import ANY_STATUS, Request

MOST_S: Final = 1e-3
"""What a step may take: nothing that takes longer runs on a replica's event loop."""

REPEATS: Final = 20
REPEATS_AT_ONCE: Final = 5
PAUSE_S: Final = 1.0
"""Between so many repeats, for a machine that is slow for a while."""


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
        ask: does what a probe is asked for, `restart` and `longest`.
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
    for request in requests:
        headers = dict(request.headers)
        if request.content_type is not None:
            headers["content-type"] = request.content_type
        path = f"/{request.model}{request.path}"
        connection.request(request.method, path, request.body, headers)
        response = connection.getresponse()
        start = response.read(500)
        while response.read(1 << 20):
            pass
        if request.status is None:
            assert response.status < 500, start
        elif request.status != ANY_STATUS:
            assert response.status == request.status, start
    connection.close()
