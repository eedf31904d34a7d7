"""Threads that run blocking calls for one event loop.

A hop to a thread and back costs 30 µs here and 76 µs through `loop.run_in_executor`, which keeps
two futures and a lock per call; and these threads are daemons, so one that hangs in a model does
not keep the process from ending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias, TypeVar

from rayserve_app.errors import ServingError, release

T = TypeVar("T")

Done: TypeAlias = Callable[[T | None, BaseException | None], None]
"""Called in the event loop with what a call returned, or with what it raised."""

_Call: TypeAlias = tuple[
    "asyncio.AbstractEventLoop", Callable[[], Any], Done[Any], Callable[[], bool]
]


class Workers:
    """A fixed number of threads, started with the first call; calls wait in order."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads: list[Thread] = []

    def start(
        self,
        call: Callable[[], T],
        done: Done[T],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Run a call in one of the threads, then `done` with its outcome in the event loop. If it
        is not wanted any more when its turn comes, neither is called."""
        if not self._threads:
            self._start_threads()
        self._calls.put((asyncio.get_running_loop(), call, done, is_wanted))

    def run(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Run a call in one of the threads. A future that is cancelled before its call starts
        takes the call with it."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.start(call, partial(_settle, future), lambda: not future.cancelled())
        return future

    def close(self) -> None:
        """Let the threads end after the calls that they have."""
        for _ in self._threads:
            self._calls.put(None)

    def _start_threads(self) -> None:
        for number in range(self._count):
            thread = Thread(target=self._work, name=f"{self._name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while (entry := self._calls.get()) is not None:
            has_loop = _run(*entry)
            # Nothing of a call stays alive while the thread waits for the next.
            del entry
            if not has_loop:
                return


class NoWorkers:
    """In place of `Workers` for calls of microseconds: runs each at once, in the event loop."""

    def start(self, call: Callable[[], T], done: Done[T]) -> None:
        """Run a call now, then `done` with its outcome in the loop's next turn."""
        asyncio.get_running_loop().call_soon(done, *_outcome(call))

    def close(self) -> None:
        return


def _run(
    loop: asyncio.AbstractEventLoop,
    call: Callable[[], Any],
    done: Done[Any],
    is_wanted: Callable[[], bool],
) -> bool:
    """Run a call unless nobody wants it any more; return false if its loop is closed."""
    if not is_wanted():
        return True
    result, error = _outcome(call)
    try:
        loop.call_soon_threadsafe(done, result, error)
    except RuntimeError:
        return False
    return True


def _outcome(call: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    try:
        return call(), None
    except ServingError as exc:
        # Here: a million values, read or to be written, would hold up the event loop for
        # milliseconds.
        release(exc)
        return None, exc
    except BaseException as exc:
        return None, exc  # with its traceback, for the log


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, Exception) and not isinstance(error, StopIteration):
        future.set_exception(error)
    else:
        # A future cannot carry StopIteration, and SystemExit would end the loop.
        substitute = RuntimeError(f"{type(error).__name__}: {error}")
        substitute.__cause__ = error
        future.set_exception(substitute)
