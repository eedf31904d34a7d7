"""Threads that run calls for an event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import pytest

from rayserve_app.errors import DecodeError, PredictError
from rayserve_app.process.workers import NoWorkers, Workers


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def call() -> NoReturn:
        raise error

    return call


async def test_calls_run_in_order_and_each_gets_its_own_result() -> None:
    workers = Workers(1, "test")
    seen: list[int] = []
    futures = [workers.run(lambda n=n: seen.append(n) or n * n) for n in range(50)]
    assert await asyncio.gather(*futures) == [n * n for n in range(50)]
    assert seen == list(range(50))


async def test_threads_start_with_the_first_call_and_only_so_many() -> None:
    workers = Workers(3, "few")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("few-")]
    together = threading.Barrier(3)
    names = await asyncio.gather(
        *[
            workers.run(lambda: together.wait(10) is None or threading.current_thread().name)
            for _ in range(9)
        ]
    )
    assert set(names) == {"few-0", "few-1", "few-2"}
    assert all(t.daemon for t in threading.enumerate() if t.name.startswith("few-"))
    workers.close()


async def test_the_loop_goes_on_while_a_call_blocks() -> None:
    workers = Workers(1, "test")
    gate = threading.Event()
    future = workers.run(lambda: gate.wait(10))
    await asyncio.sleep(0)
    gate.set()
    assert await future


async def test_an_exception_is_the_futures() -> None:
    workers = Workers(1, "test")
    error = ValueError("bad")
    with pytest.raises(ValueError, match="bad") as info:
        await workers.run(raising(error))
    assert info.value is error
    assert await workers.run(lambda: "still here") == "still here"


@pytest.mark.parametrize("error", [StopIteration("end"), SystemExit(3), KeyboardInterrupt()])
async def test_what_a_future_cannot_carry_is_a_runtime_error(error: BaseException) -> None:
    workers = Workers(1, "test")
    with pytest.raises(RuntimeError, match=type(error).__name__) as info:
        await workers.run(raising(error))
    assert info.value.__cause__ is error
    assert await workers.run(lambda: "still here") == "still here"


async def test_a_callback_gets_the_result_or_the_exception_in_the_loop() -> None:
    workers = Workers(1, "test")
    error = SystemExit(3)
    outcomes: list[Any] = []

    def keep(result: Any, raised: BaseException | None) -> None:
        assert asyncio.get_running_loop()
        outcomes.append((result, raised))

    workers.start(lambda: 1, keep)
    workers.start(raising(error), keep)
    workers.start(lambda: "unwanted", keep, lambda: False)
    assert await workers.run(lambda: "last") == "last"
    assert outcomes == [(1, None), (None, error)]


async def test_an_exception_may_be_a_result() -> None:
    error = ValueError("a value like any other")
    assert await Workers(1, "test").run(lambda: error) is error


async def test_a_call_that_is_cancelled_before_its_start_never_runs() -> None:
    workers = Workers(1, "test")
    gate = threading.Event()
    seen: list[str] = []
    blocker = workers.run(lambda: gate.wait(10))
    cancelled = workers.run(lambda: seen.append("cancelled"))
    kept = workers.run(lambda: seen.append("kept"))
    cancelled.cancel()
    gate.set()
    await blocker
    await kept
    assert seen == ["kept"]


async def test_the_result_of_a_call_that_is_cancelled_while_it_runs_is_dropped() -> None:
    workers = Workers(1, "test")
    started, gate = threading.Event(), threading.Event()
    future = workers.run(lambda: started.set() or gate.wait(10))
    while not started.is_set():
        await asyncio.sleep(0.001)
    future.cancel()
    gate.set()
    assert await workers.run(lambda: "next") == "next"
    assert future.cancelled()


async def test_nothing_of_a_call_stays_alive_after_it() -> None:
    class Photo:
        pass

    def keep(photo: Photo) -> Callable[[], Photo]:
        return lambda: photo

    workers = Workers(1, "test")
    photo = Photo()
    seen = weakref.ref(photo)
    await workers.run(keep(photo))
    del photo
    async with asyncio.timeout(5):
        while seen() is not None:
            gc.collect()
            await asyncio.sleep(0.001)


async def test_closing_lets_the_calls_at_hand_end() -> None:
    workers = Workers(2, "closing")
    futures = [workers.run(lambda: time.sleep(0.01) or 1) for _ in range(4)]
    workers.close()
    assert await asyncio.gather(*futures) == [1, 1, 1, 1]
    async with asyncio.timeout(5):
        while any(thread.name.startswith("closing-") for thread in threading.enumerate()):
            await asyncio.sleep(0.001)


def test_a_call_that_outlives_its_loop_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)
    workers = Workers(1, "outliving")
    gate = threading.Event()

    async def leave() -> None:
        workers.run(lambda: gate.wait(10))

    asyncio.run(leave())
    (thread,) = (t for t in threading.enumerate() if t.name == "outliving-0")
    gate.set()
    thread.join(5)
    assert not thread.is_alive()
    assert not complaints


async def test_without_workers_a_call_runs_at_once_and_is_done_in_the_next_turn() -> None:
    seen: list[Any] = []
    workers = NoWorkers()
    workers.start(threading.current_thread, lambda result, error: seen.append((result, error)))
    assert seen == []
    await asyncio.sleep(0)
    assert seen == [(threading.current_thread(), None)]
    workers.close()


async def test_without_workers_an_exception_is_the_outcome() -> None:
    seen: list[Any] = []
    error = ValueError("bad")
    NoWorkers().start(raising(error), lambda result, error: seen.append((result, error)))
    await asyncio.sleep(0)
    assert seen == [(None, error)]


class Traced:
    """A value that tells in which thread it is freed."""

    def __init__(self, freed_in: list[str]) -> None:
        self._freed_in = freed_in

    def __del__(self) -> None:
        self._freed_in.append(threading.current_thread().name)


async def test_what_a_call_that_fails_has_made_is_freed_in_its_thread() -> None:
    freed_in: list[str] = []

    def parse() -> None:
        document = Traced(freed_in)
        try:
            read(document)
        except ValueError as exc:
            raise DecodeError("no document") from exc

    def read(document: Traced) -> NoReturn:
        raise ValueError(type(document).__name__)

    workers = Workers(1, "test")
    with pytest.raises(DecodeError, match="no document") as info:
        await workers.run(parse)
    assert freed_in == ["test-0"]
    assert str(info.value.__cause__) == "Traced"
    workers.close()


async def test_what_a_call_that_fails_was_given_is_freed_in_its_thread() -> None:
    freed_in: list[str] = []

    def write(result: Traced) -> NoReturn:
        raise PredictError(type(result).__name__)

    workers = Workers(1, "test")
    with pytest.raises(PredictError, match="Traced") as info:
        await workers.run(partial(write, Traced(freed_in)))
    async with asyncio.timeout(5):
        while not freed_in:
            await asyncio.sleep(0.001)
    assert freed_in == ["test-0"]
    assert info.tb is not None
    workers.close()
