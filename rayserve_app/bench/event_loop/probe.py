"""How long an event loop is held up: the time that each of its callbacks computes.

It is processor time of the loop's own thread, which other threads and processes do not lengthen. It
does not see a loop that waits for the GIL while another thread holds it.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from asyncio import events
from collections.abc import Iterator
from contextlib import contextmanager
from time import thread_time
from typing import Any, NamedTuple
from unittest.mock import patch

from starlette.types import ASGIApp, Receive, Scope, Send


class Step(NamedTuple):
    """One callback of a loop: an event of a socket, a timer, or a task between two waits."""

    seconds: float
    what: str

    def __str__(self) -> str:
        return f"{self.seconds * 1e3:.2f} ms in {self.what}"


class LoopProbe:
    """Measures the loop in which an ASGI app is called."""

    def __init__(self) -> None:
        self._longest = Step(0.0, "nothing")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle = threading.Event()

    def restart(self) -> None:
        self._longest = Step(0.0, "nothing")

    @property
    def longest(self) -> Step:
        """The longest step since the restart, when all that has come by now is done."""
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
