"""The batcher: take the execution slot first, then drain the queue.

A batch that is sealed before a slot is free stays small exactly when load is high. Here a batch
closes at the moment it can run, so it holds all that has arrived by then, up to its limit.

Items of unlike shape or type, or of another version or signature (`Servable.bucket`), never meet in
one batch. The earliest deadline goes first, within a bucket and among buckets. A cancelled or
expired request leaves the queue before it costs anything, and one that will be late before it costs
another its place. If a batch fails, its halves are tried, so that one bad item fails alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Protocol, TypeAlias

from rayserve_app.errors import (
    DeadlineExceeded,
    InvalidRequest,
    PredictError,
    ServingError,
    release,
)
from rayserve_app.inference.batch_pace import LearnedPace, Pace
from rayserve_app.inference.batch_queues import Queue, Queues
from rayserve_app.metrics.recorder import Recorder
from rayserve_app.process.failure_log import FailureLog
from rayserve_app.process.timing import Timing
from rayserve_app.process.workers import NoWorkers, Workers
from rayserve_app.settings.model import BatchingSettings
from rayserve_app.types import Item, Outputs, Row

Result: TypeAlias = Row | ServingError

Predict: TypeAlias = Callable[[Sequence[Item]], Outputs]

HANG_DEADLINES = 3
HANG_FLOOR_S = 5.0
"""A batch is taken to hang when it has run for so many of the model's deadlines, so many times as
long as was to be expected, and for these seconds. How much or little is left to those who wait says
nothing about it: mere load passes deadlines, but while batches come and go."""

LONGEST_SHARE = 0.15
"""Of the deadline, what a batch takes at most where smaller ones do as much: a request may wait for
one that has just begun before it gets into its own."""

STEP_ITEMS = 128
"""Items of one request that are queued at once: each takes a microsecond or two."""


class Target(Protocol):
    """What items are submitted for: whatever predicts them, and tells which may meet."""

    @property
    def predict(self) -> Predict: ...

    @property
    def bucket(self) -> Callable[[Item], Hashable]: ...


class _Request:
    """The items of one caller, until the last of them has a result."""

    __slots__ = ("entries", "future", "missing", "predict", "results", "timing")

    def __init__(
        self, predict: Predict, future: asyncio.Future[list[Result]], timing: Timing, count: int
    ) -> None:
        self.predict = predict
        self.future = future
        self.timing = timing
        self.entries: list[_Entry] = []
        self.results: list[Result | None] = [None] * count
        self.missing = count


class _Entry:
    """One item in the queue."""

    __slots__ = ("bucket", "deadline", "index", "item", "queued_at", "request")

    def __init__(
        self,
        item: Item,
        bucket: Hashable,
        request: _Request,
        index: int,
        queued_at: float,
        deadline: float,
    ) -> None:
        self.item = item
        self.bucket = bucket
        self.request = request
        self.index = index
        self.queued_at = queued_at
        self.deadline = deadline


class _Batch:
    """Entries that are executing."""

    __slots__ = ("entries", "expected_s", "pace", "predict", "started_at")

    def __init__(self, entries: list[_Entry], pace: Pace) -> None:
        self.entries = entries
        self.pace = pace
        self.predict = entries[0].request.predict
        self.expected_s = pace.cost.of_next(len(entries))
        self.started_at = perf_counter()


class Batcher:
    """Groups items of many requests into batches for a blocking `predict`.

    Used from one event loop; `predict` runs in threads, `max_concurrent_batches` at most, unless
    it is instant.
    """

    def __init__(
        self,
        settings: BatchingSettings,
        *,
        recorder: Recorder,
        deadline_s: float,
        is_instant: bool = False,
    ) -> None:
        """Keep the settings.

        Args:
            deadline_s: how long a caller waits at most.
            is_instant: `predict` runs in the event loop, not in a thread.
        """
        self._recorder = recorder
        self._deadline_s = deadline_s
        self._drain_reason = "waited" if settings.batch_wait_timeout_s else "drained"
        self._slots = self._free_slots = settings.max_concurrent_batches
        self._workers: Workers | NoWorkers = (
            NoWorkers() if is_instant else Workers(settings.max_concurrent_batches, "predict")
        )
        self._queues: Queues[_Entry] = Queues(
            partial(_create_pace, settings, LONGEST_SHARE * deadline_s),
            settings.batch_wait_timeout_s,
        )
        self._failures = FailureLog()
        self._running: set[_Batch] = set()
        self._next_dispatch: asyncio.Handle | None = None
        self._is_waiting = False

    @property
    def queued_items(self) -> int:
        """Items that wait for a batch."""
        return len(self._queues)

    @property
    def is_stalled(self) -> bool:
        """Whether a running batch takes so long that it is taken to hang."""
        if not self._running:
            return False
        now = perf_counter()
        return any(
            now - batch.started_at
            > max(HANG_FLOOR_S, HANG_DEADLINES * max(self._deadline_s, batch.expected_s))
            for batch in self._running
        )

    @property
    def is_free(self) -> bool:
        """Whether an item that comes now need not wait."""
        return self._free_slots > 0 and not self._queues

    @property
    def shortest_s(self) -> float:
        """The seconds of the smallest batches that are worthwhile beside full ones; 0 if nothing is
        known yet."""
        return self._queues.shortest_s

    def end_s(self, coming: int) -> float:
        """Return the seconds in which all that runs and waits, and so many items more, is expected
        to be predicted; 0 if nothing is known yet."""
        ahead_s, own_s = self._queues.forecast(coming)
        now = perf_counter()
        for batch in self._running:
            if (end_at := batch.started_at + batch.expected_s) > now:
                ahead_s += end_at - now
        return ahead_s / self._slots + own_s

    async def submit(
        self, items: Sequence[Item], target: Target, *, timeout_s: float, timing: Timing
    ) -> list[Result]:
        """Return one result per item, in order; an item's error stands in its place.

        Args:
            target: what predicts the items. Items that share its `bucket` share its `predict`.
            timeout_s: what is left of the caller's deadline.
            timing: gets the seconds spent waiting and predicting, and the batch's size.
        Raises:
            DeadlineExceeded: not all results were there after `timeout_s`.
        """
        if not items:
            return []
        loop = asyncio.get_running_loop()
        request = _Request(target.predict, loop.create_future(), timing, len(items))
        deadline = loop.call_later(timeout_s, _expire, request)
        try:
            if len(items) <= STEP_ITEMS:
                self._enqueue(request, items, target, perf_counter() + timeout_s)
            else:
                await self._enqueue_in_steps(request, items, target, timeout_s)
            if self._free_slots and (self._next_dispatch is None or self._is_waiting):
                # Not at once: what arrived in the same turn of the loop joins.
                self._dispatch_at(loop.call_soon(self._dispatch))
            return await request.future
        finally:
            deadline.cancel()
            if request.missing and request.entries:
                self._queues.remove(request.entries)
            # Items would live until the garbage collector finds the circle, which may be late.
            request.entries.clear()

    def close(self) -> None:
        """Take no more batches; one that runs is left to end."""
        self._workers.close()

    async def _enqueue_in_steps(
        self, request: _Request, items: Sequence[Item], target: Target, timeout_s: float
    ) -> None:
        """Queue a request's items, no more at once than others can wait for."""
        late_at = perf_counter() + timeout_s
        for start in range(0, len(items), STEP_ITEMS):
            if start:
                await asyncio.sleep(0)
            if request.future.done():
                return
            self._enqueue(request, items[start : start + STEP_ITEMS], target, late_at, start)

    def _enqueue(
        self,
        request: _Request,
        items: Sequence[Item],
        target: Target,
        late_at: float,
        start: int = 0,
    ) -> None:
        now = perf_counter()
        for index, item in enumerate(items, start):
            entry = _Entry(item, target.bucket(item), request, index, now, late_at)
            request.entries.append(entry)
            self._queues.add(entry)

    def _give_up(self, request: _Request) -> None:
        # At once, for its other items may stand in another bucket.
        self._queues.remove(request.entries)
        if not request.future.done():
            self._recorder.dropped_requests += 1
            request.future.set_exception(
                DeadlineExceeded("The model would give no result within its deadline")
            )

    def _dispatch_at(self, handle: asyncio.Handle, *, is_waiting: bool = False) -> None:
        if self._next_dispatch is not None:
            self._next_dispatch.cancel()
        self._next_dispatch = handle
        self._is_waiting = is_waiting

    def _dispatch(self) -> None:
        """Fill the free slots with the batches that are due.

        It runs after an item has come, after a batch has ended, and when the wait of a queue's
        first item is over: the only moments at which a batch can begin. At most one call of it is
        planned at a time.
        """
        if self._next_dispatch is not None:
            self._next_dispatch.cancel()
            self._next_dispatch = None
        while self._free_slots and self._queues:
            now = perf_counter()
            if late := self._queues.late(now):
                # They would take the slot for a result that nobody waits for any more. Then look
                # again: a request that is given up leaves other queues as well.
                for request in {entry.request for entry in late}:
                    self._give_up(request)
                continue
            queue, due_at = self._queues.next(now)
            if due_at > now:
                # Nothing else is due sooner. An item that comes meanwhile plans a call of its own.
                loop = asyncio.get_running_loop()
                self._dispatch_at(loop.call_later(due_at - now, self._dispatch), is_waiting=True)
                return
            self._start(queue)

    def _start(self, queue: Queue[_Entry]) -> None:
        is_full = len(queue.entries) >= queue.pace.limit
        batch = _Batch(self._queues.take(queue), queue.pace)
        self._recorder.batch_closed["full" if is_full else self._drain_reason] += 1
        self._recorder.batch_items.observe(len(batch.entries))
        self._running.add(batch)
        self._free_slots -= 1
        items = [entry.item for entry in batch.entries]
        run = partial(run_batch, batch.predict, items, self._failures)
        self._workers.start(run, partial(self._finish, batch))

    def _finish(
        self, batch: _Batch, results: list[Result] | None, error: BaseException | None
    ) -> None:
        self._running.discard(batch)
        self._free_slots += 1
        count = len(batch.entries)
        predict_s = perf_counter() - batch.started_at
        self._queues.observe(batch.pace, count, predict_s)
        self._recorder.executions[batch.predict, count].add(predict_s)
        if self._queues:
            self._dispatch()
        if error is not None or results is None:
            results = [as_error(error or RuntimeError())] * count
        for entry, result in zip(batch.entries, results, strict=True):
            request = entry.request
            request.results[entry.index] = result
            request.missing -= 1
            timing = request.timing
            wait_s = batch.started_at - entry.queued_at
            if wait_s > timing.batch_wait:
                timing.batch_wait = wait_s
            if predict_s > timing.predict:
                timing.predict = predict_s
            if count > timing.batch_items:
                timing.batch_items = count
            if not request.missing and not request.future.done():
                request.future.set_result([r for r in request.results if r is not None])


def _expire(request: _Request) -> None:
    if not request.future.done():
        request.future.set_exception(
            DeadlineExceeded("The model gave no result within its deadline")
        )


def _create_pace(settings: BatchingSettings, longest_s: float) -> Pace:
    if settings.target_latency_ms is None:
        return Pace(settings.max_batch_size, longest_s)
    return LearnedPace(settings.max_batch_size, settings.target_latency_ms / 1e3)


def run_batch(
    predict: Predict, items: Sequence[Item], failures: FailureLog | None = None
) -> list[Result]:
    """Run one batch; if it fails, its halves, so that one bad item fails alone.

    Some bad items are found in a few calls each; if the model fails on most, or is broken, the rest
    gets the last error without a call of its own. What it refuses as the caller's fault is always
    found: nobody is told of another's.

    Args:
        failures: gets the errors that are none of ours.
    """
    results: list[Result] = []
    failures_left = 4 * len(items).bit_length() + 2
    parts = [items]
    last: ServingError | None = None
    while parts:
        part = parts.pop()
        if last is not None and not failures_left:
            results += [last] * len(part)
            continue
        try:
            results += check_outputs(predict(part), len(part))
        except BaseException as exc:  # a model may raise anything, and somebody waits for an answer
            if failures is not None and not isinstance(exc, ServingError):
                failures.add(exc, len(part))
            error = as_error(exc)
            release(error)
            if not isinstance(error, InvalidRequest):
                last = error
                failures_left -= 1
            if len(part) == 1:
                results.append(error)
            else:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
    return results


def check_outputs(outputs: Outputs, count: int) -> list[Result]:
    """Return one result per item of a batch of `count`; a wrong count is the batch's error."""
    if isinstance(outputs, Mapping):
        lengths = {name: len(array) for name, array in outputs.items()}
        if wrong := [name for name, length in lengths.items() if length != count]:
            error = _wrong_count(count, lengths[wrong[0]], f"output {wrong[0]!r}")
            return [error] * count
        return [Row(outputs, index) for index in range(count)]
    if len(outputs) != count:
        return [_wrong_count(count, len(outputs), "the model")] * count
    return [
        as_error(value) if isinstance(value, Exception) else Row(outputs, index)
        for index, value in enumerate(outputs)
    ]


def _wrong_count(expected: int, got: int, what: str) -> ServingError:
    return PredictError(
        f"Wrong number of results from {what}",
        expected=f"{expected}, one per item of the batch",
        got=str(got),
    )


def as_error(exc: BaseException) -> ServingError:
    """Return what a model raised as an error of ours: PredictError, unless it is one already."""
    if isinstance(exc, ServingError):
        return exc
    lines = str(exc).splitlines()
    error = PredictError(f"The model failed: {type(exc).__name__}: {lines[0] if lines else ''}")
    error.__cause__ = exc
    return error
