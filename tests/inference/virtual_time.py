"""An event loop whose clock stands while anything can run and jumps to the next timer, and threads
that take as long as their calls say: overload without waiting, the same on any machine."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import pytest

from rayserve_app.inference import answer_cache, batcher, decoding, model
from rayserve_app.process import workers

T = TypeVar("T")


class Clock(asyncio.SelectorEventLoop):
    """The loop and its clock."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._spent_s = 0.0

    def time(self) -> float:
        return self._now + self._spent_s

    def spend(self, seconds: float) -> None:
        """Let the call of a thread that runs now take so long."""
        self._spent_s += seconds

    def run_call(self, call: Callable[[], Any]) -> tuple[float, Any, BaseException | None]:
        """Run a thread's call; return how long it took, what it returned and what it raised."""
        self._spent_s = 0.0
        outcome = workers._outcome(call)
        seconds, self._spent_s = self._spent_s, 0.0
        return seconds, *outcome

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._now = max(self._now, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


class VirtualWorkers(workers.Workers):
    """Threads of that clock's time."""

    def __init__(self, count: int, name: str) -> None:
        super().__init__(count, name)
        self._free = count
        self._waiting: deque[Any] = deque()

    def start(
        self,
        call: Callable[[], Any],
        done: Callable[[Any, BaseException | None], None],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self._waiting.append((call, done, is_wanted))
        self._go_on()

    def _go_on(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Clock)
        while self._free and self._waiting:
            call, done, is_wanted = self._waiting.popleft()
            if is_wanted():
                self._free -= 1
                seconds, result, error = loop.run_call(call)
                loop.call_later(seconds, partial(self._end, done, result, error))

    def _end(
        self,
        done: Callable[[Any, BaseException | None], None],
        result: Any,
        error: BaseException | None,
    ) -> None:
        self._free += 1
        done(result, error)
        self._go_on()


def run(monkeypatch: pytest.MonkeyPatch, work: Callable[[Clock], Coroutine[Any, Any, T]]) -> T:
    """Run some work in that time, with models that it creates."""
    with asyncio.Runner(loop_factory=Clock) as runner:
        clock = runner.get_loop()
        assert isinstance(clock, Clock)
        for module in (answer_cache, batcher, decoding, model):
            monkeypatch.setattr(module, "perf_counter", clock.time)
        for module in (batcher, model):
            monkeypatch.setattr(module, "Workers", VirtualWorkers)
        return runner.run(work(clock))
