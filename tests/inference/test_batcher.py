"""The batcher: slot first, then drain; per-item errors; deadlines; cancellation."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from asyncio import Future
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from rayserve_app.errors import DeadlineExceeded, PredictError, ShapeMismatch
from rayserve_app.inference import batcher as module
from rayserve_app.inference.batcher import Batcher, Result
from rayserve_app.metrics.recorder import Recorder
from rayserve_app.process import failure_log
from rayserve_app.process.timing import Timing
from rayserve_app.settings.model import BatchingSettings
from rayserve_app.types import Row


class Gate:
    """A model that doubles its inputs once it is let through, and remembers its batches."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.opened = threading.Event()
        self.batches: list[list[Any]] = []
        if is_open:
            self.opened.set()

    def predict(self, items: Sequence[Any]) -> list[Any]:
        self.batches.append(list(items))
        self.opened.wait(20)
        return [item * 2 for item in items]


class Target(NamedTuple):
    predict: Callable[[Sequence[Any]], Any]
    bucket: Callable[[Any], Any] = lambda item: None


class ModelBatcher(Batcher):
    """A batcher whose items are for one target unless another is given."""

    target: Target

    async def submit(
        self, items: Sequence[Any], target: Any = None, **options: Any
    ) -> list[Result]:
        return await super().submit(items, target or self.target, **options)


def create_batcher(
    predict: Callable[[Sequence[Any]], Any],
    *,
    recorder: Recorder | None = None,
    bucket: Callable[[Any], Any] = lambda item: None,
    deadline_s: float = 10,
    is_instant: bool = False,
    **settings: Any,
) -> ModelBatcher:
    batcher = ModelBatcher(
        BatchingSettings(**settings),
        recorder=recorder or Recorder(),
        deadline_s=deadline_s,
        is_instant=is_instant,
    )
    batcher.target = Target(predict, bucket)
    return batcher


def submit(batcher: Batcher, *items: Any, timeout_s: float = 10) -> Future[list[Result]]:
    return asyncio.ensure_future(batcher.submit(items, timeout_s=timeout_s, timing=Timing()))


def values(results: list[Result]) -> list[Any]:
    assert all(isinstance(result, Row) for result in results), results
    return [result.value for result in results if isinstance(result, Row)]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def test_results_come_in_the_order_of_the_items() -> None:
    gate = Gate()
    batcher = create_batcher(gate.predict, max_batch_size=3)
    assert values(await submit(batcher, 1, 2, 3, 4, 5)) == [2, 4, 6, 8, 10]
    assert gate.batches == [[1, 2, 3], [4, 5]]


async def test_what_arrives_while_the_slot_is_taken_makes_one_batch() -> None:
    gate = Gate(is_open=False)
    recorder = Recorder()
    batcher = create_batcher(gate.predict, max_batch_size=32, recorder=recorder)
    first = submit(batcher, 0)
    await until(lambda: gate.batches)
    others = [submit(batcher, item) for item in range(1, 21)]
    await until(lambda: batcher.queued_items == 20)
    gate.opened.set()
    await first
    assert [values(await other) for other in others] == [[2 * i] for i in range(1, 21)]
    assert gate.batches == [[0], list(range(1, 21))]
    assert recorder.batch_closed == {"drained": 2}
    assert recorder.batch_items.sum == 21


async def test_as_many_batches_run_at_once_as_there_are_slots() -> None:
    gate = Gate(is_open=False)
    batcher = create_batcher(gate.predict, max_batch_size=1, max_concurrent_batches=3)
    pending = [submit(batcher, item) for item in range(5)]
    await until(lambda: len(gate.batches) == 3)
    await asyncio.sleep(0.05)
    assert len(gate.batches) == 3
    gate.opened.set()
    assert [values(await p) for p in pending] == [[2 * i] for i in range(5)]


async def test_a_batch_waits_for_more_items_only_as_long_as_it_may() -> None:
    gate = Gate()
    recorder = Recorder()
    batcher = create_batcher(
        gate.predict, max_batch_size=3, batch_wait_timeout_s=0.2, recorder=recorder
    )
    started_at = time.perf_counter()
    first, second = submit(batcher, 1), submit(batcher, 2)
    await first
    await second
    assert time.perf_counter() - started_at >= 0.19
    assert gate.batches == [[1, 2]]
    first, others = submit(batcher, 1), submit(batcher, 2, 3)
    await first
    await others
    assert gate.batches == [[1, 2], [1, 2, 3]]
    assert recorder.batch_closed == {"waited": 1, "full": 1}


async def test_items_of_unlike_shape_never_meet_and_the_oldest_goes_first() -> None:
    gate = Gate(is_open=False)
    batcher = create_batcher(gate.predict, max_batch_size=8, bucket=lambda item: item.shape)
    wide, tall = np.ones((1, 2)), np.ones((2, 1))
    blocker = submit(batcher, np.ones(1))
    await until(lambda: gate.batches)
    pending = [submit(batcher, item) for item in (tall, wide, tall, wide, wide)]
    await until(lambda: batcher.queued_items == 5)
    gate.opened.set()
    for result in (blocker, *pending):
        await result
    assert [[item.shape for item in batch] for batch in gate.batches] == [
        [(1,)],
        [(2, 1), (2, 1)],
        [(1, 2), (1, 2), (1, 2)],
    ]


async def test_items_of_two_targets_never_meet_and_each_is_predicted_by_its_own() -> None:
    first, second = Gate(is_open=False), Gate()
    batcher = create_batcher(first.predict, max_batch_size=8)
    other = Target(second.predict, lambda item: "other")
    blocker = submit(batcher, 0)
    await until(lambda: first.batches)
    pending = []
    for item in range(1, 7):
        target = batcher.target if item % 2 else other
        coroutine = batcher.submit([item], target, timeout_s=10, timing=Timing())
        pending.append(asyncio.ensure_future(coroutine))
    await until(lambda: batcher.queued_items == 6)
    first.opened.set()
    await blocker
    assert [values(await each) for each in pending] == [[2 * item] for item in range(1, 7)]
    assert first.batches == [[0], [1, 3, 5]]
    assert second.batches == [[2, 4, 6]]


async def test_one_bad_item_fails_alone() -> None:
    def predict(items: Sequence[int]) -> list[float]:
        return [1 / item for item in items]

    batcher = create_batcher(predict, max_batch_size=8)
    good, bad = submit(batcher, 1, 2), submit(batcher, 4, 0, 5)
    assert values(await good) == [1.0, 0.5]
    quarter, error, fifth = await bad
    assert values([quarter, fifth]) == [0.25, 0.2]
    assert isinstance(error, PredictError)
    assert "ZeroDivisionError: division by zero" in str(error)


async def test_an_exception_in_the_results_is_that_items_error() -> None:
    batcher = create_batcher(lambda items: ["ok", ValueError("bad pixel")])
    ok, error = await submit(batcher, 1, 2)
    assert values([ok]) == ["ok"]
    assert "ValueError: bad pixel" in str(error)


@pytest.mark.parametrize("outputs", [[1], [1, 2, 3], {"out": np.zeros(3)}])
async def test_a_wrong_count_is_the_batchs_error_and_the_next_batch_works(outputs: Any) -> None:
    answers = [outputs, ["a", "b"]]
    batcher = create_batcher(lambda items: answers.pop(0))
    results = await submit(batcher, 1, 2)
    assert all("expected 2, one per item of the batch" in str(result) for result in results)
    assert values(await submit(batcher, 1, 2)) == ["a", "b"]


async def test_a_model_that_exits_is_an_error_like_any_other() -> None:
    def predict(items: Sequence[int]) -> list[int]:
        raise SystemExit(3)

    (error,) = await submit(create_batcher(predict), 1)
    assert "SystemExit: 3" in str(error)


async def test_an_expired_request_leaves_the_queue_before_it_costs_anything() -> None:
    gate = Gate(is_open=False)
    batcher = create_batcher(gate.predict)
    blocker = submit(batcher, 0)
    await until(lambda: gate.batches)
    with pytest.raises(DeadlineExceeded, match="no result within its deadline"):
        await submit(batcher, 1, timeout_s=0.05)
    assert batcher.queued_items == 0
    gate.opened.set()
    await blocker
    assert gate.batches == [[0]]


async def test_a_cancelled_request_leaves_the_queue_before_it_costs_anything() -> None:
    gate = Gate(is_open=False)
    batcher = create_batcher(gate.predict)
    blocker = submit(batcher, 0)
    await until(lambda: gate.batches)
    cancelled = asyncio.ensure_future(batcher.submit([1, 2], timeout_s=9, timing=Timing()))
    kept = submit(batcher, 3)
    await until(lambda: batcher.queued_items == 3)
    cancelled.cancel()
    await until(lambda: batcher.queued_items == 1)
    gate.opened.set()
    await blocker
    assert values(await kept) == [6]
    assert gate.batches == [[0], [3]]


@pytest.mark.parametrize("deadline_s", [10, 0.1])
async def test_a_healthy_batch_does_not_hang_however_many_deadlines_pass_meanwhile(
    deadline_s: float,
) -> None:
    """Neither where little was left of them, nor where they are shorter than any batch."""
    gate = Gate(is_open=False)
    batcher = create_batcher(gate.predict, max_batch_size=1, deadline_s=deadline_s)
    blocker = submit(batcher, 0)
    await until(lambda: gate.batches)
    for timeout_s in (0.02, 0.1, 0.1, 0.02, 0.0):
        with pytest.raises(DeadlineExceeded):
            await submit(batcher, 1, timeout_s=timeout_s)
    await asyncio.sleep(0.1)
    assert not batcher.is_stalled
    gate.opened.set()
    await blocker


async def test_a_batch_that_runs_for_three_deadlines_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANG_FLOOR_S", 0.0)
    gate = Gate(is_open=False)
    batcher = create_batcher(gate.predict, max_batch_size=1, deadline_s=0.2)
    started_at = time.perf_counter()
    hanging = submit(batcher, 0)
    await until(lambda: batcher.is_stalled)
    assert time.perf_counter() - started_at >= 0.59
    gate.opened.set()
    await hanging
    assert not batcher.is_stalled


async def test_a_batch_that_takes_as_long_as_usual_does_not_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HANG_FLOOR_S", 0.0)
    batcher = create_batcher(lambda items: time.sleep(0.3) or items, deadline_s=0.01)
    await submit(batcher, 0)
    second = submit(batcher, 1)
    seen = []
    while not second.done():
        seen.append(batcher.is_stalled)
        await asyncio.sleep(0.01)
    assert len(seen) > 5
    assert not any(seen)


async def test_deadlines_missed_in_the_queue_are_only_load() -> None:
    batcher = create_batcher(
        lambda items: time.sleep(0.04) or items, max_batch_size=1, deadline_s=0.1
    )
    seen: list[bool] = []
    results = [submit(batcher, item, timeout_s=0.1) for item in range(12)]
    watched = asyncio.gather(*results, return_exceptions=True)
    while not watched.done():
        seen.append(batcher.is_stalled)
        await asyncio.sleep(0.002)
    assert sum(isinstance(result, DeadlineExceeded) for result in await watched) >= 6
    assert not any(seen)


async def test_a_batch_far_beyond_the_deadline_hangs_though_other_slots_serve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HANG_FLOOR_S", 0.0)

    def predict(items: Sequence[Any]) -> list[Any]:
        time.sleep(1.0 if "slow" in items else 0.0)
        return list(items)

    batcher = create_batcher(predict, max_batch_size=1, max_concurrent_batches=2, deadline_s=0.1)
    slow = submit(batcher, "slow")
    await asyncio.sleep(0.2)
    assert values(await submit(batcher, "quick")) == ["quick"]
    assert not batcher.is_stalled
    await asyncio.sleep(0.2)
    assert batcher.is_stalled
    await slow
    assert not batcher.is_stalled


async def test_a_crowd_of_one_shape_does_not_starve_another() -> None:
    gate = Gate(is_open=False)
    batcher = create_batcher(gate.predict, max_batch_size=2, bucket=lambda item: item.shape)
    blocker = submit(batcher, np.ones(1))
    await until(lambda: gate.batches)
    single = submit(batcher, np.ones(3))
    crowd = [submit(batcher, np.ones(2)) for _ in range(8)]
    await until(lambda: batcher.queued_items == 9)
    gate.opened.set()
    for result in (blocker, single, *crowd):
        await result
    assert gate.batches[1][0].shape == (3,)


async def test_a_broken_model_is_not_asked_for_every_item() -> None:
    calls: list[int] = []

    def predict(items: Sequence[Any]) -> list[Any]:
        calls.append(len(items))
        raise RuntimeError("lost")

    batcher = create_batcher(predict, max_batch_size=1024)
    results = await submit(batcher, *range(1024))
    assert len(results) == 1024
    assert all("RuntimeError: lost" in str(result) for result in results)
    assert len(calls) < 60


async def test_of_what_a_model_fails_with_the_first_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def decode(item: int) -> float:
        return 1 / item

    batcher = create_batcher(lambda items: [decode(item) for item in items], max_batch_size=4)
    await submit(batcher, 0, 1, 2, 0)
    (record,) = caplog.records
    assert record.getMessage() == "The model failed on a batch of 4"
    assert "in decode" in (record.exc_text or "")


async def test_an_error_of_the_clients_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(items: Sequence[Any]) -> list[Any]:
        raise ShapeMismatch("Too short")

    (error,) = await submit(create_batcher(refuse), 1)
    assert isinstance(error, ShapeMismatch)
    assert not caplog.records


async def test_what_a_model_that_fails_has_made_is_freed_in_its_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, failure_log.__name__)  # records that are kept keep it too
    freed_in: list[str] = []

    class Traced:
        def __del__(self) -> None:
            freed_in.append(threading.current_thread().name)

    def fail(items: Sequence[Any]) -> list[Any]:
        made = Traced()
        raise RuntimeError(f"after {made}")

    (error,) = await submit(create_batcher(fail), 1)
    assert isinstance(error, PredictError)
    assert [name.startswith("predict") for name in freed_in] == [True]


async def test_times_of_waiting_and_predicting_are_told() -> None:
    batcher = create_batcher(lambda items: time.sleep(0.05) or items, max_batch_size=1)
    timing = Timing()
    await batcher.submit([1, 2], timeout_s=5, timing=timing)
    assert 0.05 <= timing.predict < 0.2
    assert 0.05 <= timing.batch_wait < 0.2


async def test_the_size_of_the_batch_is_told_to_all_in_it() -> None:
    """Of a request that is split over several, the largest."""
    gate = Gate()
    batcher = create_batcher(gate.predict, max_batch_size=3)
    timings = [Timing() for _ in range(3)]
    await asyncio.gather(
        batcher.submit([1], timeout_s=5, timing=timings[0]),
        batcher.submit([2, 3, 4], timeout_s=5, timing=timings[1]),
        batcher.submit([5], timeout_s=5, timing=timings[2]),
    )
    assert gate.batches == [[1, 2, 3], [4, 5]]
    assert [timing.batch_items for timing in timings] == [3, 3, 2]


async def test_an_instant_model_runs_in_the_loop_with_what_has_arrived_together() -> None:
    threads: list[threading.Thread] = []
    gate = Gate()

    def predict(items: Sequence[Any]) -> list[Any]:
        threads.append(threading.current_thread())
        return gate.predict(items)

    batcher = create_batcher(predict, is_instant=True, max_batch_size=3)
    results = await asyncio.gather(*[submit(batcher, number) for number in range(7)])
    assert [values(result) for result in results] == [[2 * number] for number in range(7)]
    assert gate.batches == [[0, 1, 2], [3, 4, 5], [6]]
    assert set(threads) == {threading.current_thread()}


async def test_a_long_queue_of_an_instant_model_leaves_turns_to_others() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    batcher = create_batcher(Gate().predict, is_instant=True, max_batch_size=1)
    counting = asyncio.ensure_future(count_turns())
    await batcher.submit(list(range(2000)), timeout_s=10, timing=Timing())
    counting.cancel()
    assert turns >= 2000


async def test_an_error_of_an_instant_model_is_its_items() -> None:
    def predict(items: Sequence[Any]) -> list[Any]:
        return [1 / item for item in items]

    batcher = create_batcher(predict, is_instant=True)
    good, bad = await asyncio.gather(submit(batcher, 2), submit(batcher, 0))
    assert values(good) == [0.5]
    assert isinstance(bad[0], PredictError)


@pytest.mark.parametrize("is_instant", [True, False])
async def test_items_are_free_as_soon_as_their_caller_has_its_results(is_instant: bool) -> None:
    batcher = create_batcher(lambda items: [0] * len(items), is_instant=is_instant)
    item = np.zeros(3)
    alive = weakref.ref(item)
    gc.disable()
    try:
        await batcher.submit([item, item], timeout_s=10, timing=Timing())
        del item
        await asyncio.sleep(0.05)
        assert alive() is None
    finally:
        gc.enable()


async def test_the_earliest_deadline_goes_first_whenever_it_came() -> None:
    gate = Gate(is_open=False)
    batcher = create_batcher(gate.predict, max_batch_size=2)
    blocker = submit(batcher, 0)
    await until(lambda: gate.batches)
    pending = [submit(batcher, item, timeout_s=30 - item) for item in (1, 5, 2, 4, 3)]
    await until(lambda: batcher.queued_items == 5)
    gate.opened.set()
    await blocker
    assert [values(await each) for each in pending] == [[2], [10], [4], [8], [6]]
    assert gate.batches == [[0], [5, 4], [3, 2], [1]]


async def test_who_will_be_late_makes_room_for_who_will_not() -> None:
    gate = Gate()

    def predict(items: Sequence[Any]) -> list[Any]:
        results = gate.predict(items)
        time.sleep(0.2)
        return results

    batcher = create_batcher(predict, max_batch_size=2)
    await submit(batcher, 0, 0)
    blocker = submit(batcher, 1, 1)
    await until(lambda: len(gate.batches) == 2)
    late, other = submit(batcher, 2, 3, timeout_s=0.3), submit(batcher, 4, 5)
    await blocker
    with pytest.raises(DeadlineExceeded):
        await late
    assert values(await other) == [8, 10]
    assert gate.batches == [[0, 0], [1, 1], [4, 5]]
    assert batcher.queued_items == 0


async def test_a_model_with_nothing_better_to_do_runs_what_may_be_late() -> None:
    times = [0.2, 0.2, 0.0, 0.0]
    batcher = create_batcher(lambda items: time.sleep(times.pop(0)) or items, max_batch_size=1)
    await submit(batcher, 0)
    with pytest.raises(DeadlineExceeded, match="gave no result within its deadline"):
        await submit(batcher, 1, timeout_s=0.1)
    assert values(await submit(batcher, 2, timeout_s=0.19)) == [2]
    assert values(await submit(batcher, 3, timeout_s=0.19)) == [3]


async def test_a_batch_that_waits_for_more_still_meets_its_deadline() -> None:
    batcher = create_batcher(lambda items: items, batch_wait_timeout_s=10)
    assert values(await submit(batcher, *range(9), timeout_s=1)) == list(range(9))


async def test_the_size_is_learned_for_each_shape_by_itself() -> None:
    sizes: dict[Any, list[int]] = {(1,): [], (2,): []}

    def predict(items: Sequence[Any]) -> list[Any]:
        sizes[items[0].shape].append(len(items))
        time.sleep(0.08 if items[0].shape == (2,) else 0.0)
        return list(items)

    batcher = create_batcher(
        predict, bucket=lambda item: item.shape, max_batch_size=16, target_latency_ms=60
    )
    await asyncio.gather(submit(batcher, *[np.ones(1)] * 200), submit(batcher, *[np.ones(2)] * 6))
    assert sizes[2,] == [1] * 6
    assert sizes[1,][0] == 1
    assert max(sizes[1,]) == 16


async def test_batches_are_counted_with_their_times_by_what_predicted_them() -> None:
    recorder = Recorder()
    gate = Gate()
    batcher = create_batcher(gate.predict, max_batch_size=2, recorder=recorder)
    await submit(batcher, 1, 2, 3)
    await submit(batcher, 4)
    counts = {key: duration.count for key, duration in recorder.executions.items()}
    assert counts == {(gate.predict, 2): 1, (gate.predict, 1): 2}
    assert all(duration.ns > 0 for duration in recorder.executions.values())


async def test_an_item_that_no_bucket_fits_is_its_callers_error_alone() -> None:
    batcher = create_batcher(Gate().predict, bucket=lambda item: item.shape)
    with pytest.raises(AttributeError):
        await submit(batcher, np.ones(1), "no array")
    assert batcher.queued_items == 0
    assert len(values(await submit(batcher, np.ones(1)))) == 1
