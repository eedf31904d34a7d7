"""A cache of answers by content: single flight, bounded by bytes.

Equal items that are asked for at one time share one prediction, which goes on as long as anybody
waits for it. An error is told to those who wait and not kept; a request that fails as a whole, for
its deadline or another of its items, fails alone, and those who shared its prediction ask anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Final, TypeAlias

from rayserve_app.errors import DeadlineExceeded
from rayserve_app.inference.answer_table import Answer, KeptAnswers, copy_row, hand_out, row_bytes
from rayserve_app.inference.batcher import Result
from rayserve_app.inference.item_content import digest, size_bytes
from rayserve_app.metrics.recorder import Recorder
from rayserve_app.payloads.items import Encoded
from rayserve_app.process.timing import Timing
from rayserve_app.process.workers import Workers
from rayserve_app.types import Row

Ask: TypeAlias = Callable[[Sequence[int], float], Coroutine[Any, Any, list[Result]]]
"""Predicts those of a request's items that stand in these places, within so many seconds."""

INLINE_BYTES: Final = 1 << 18
"""More is hashed or copied in a thread: it would hold up the event loop for longer than the way to
a thread and back takes."""

ITEM_BYTES: Final = 1 << 12
"""As many bytes are hashed in the time that an item takes however small it is."""


class _Flight:
    """One prediction that is under way, and those who wait for it."""

    __slots__ = ("keys", "results", "task", "waiters")

    def __init__(self, keys: Sequence[Hashable], task: asyncio.Task[list[Result]]) -> None:
        self.keys = keys
        self.task = task
        self.waiters = 0
        self.results: dict[Hashable, Result] = {}
        """Empty if the prediction failed as a whole."""


class Answers:
    """Answers a model's requests from what it has answered before, as far as that goes."""

    def __init__(self, max_bytes: int, *, recorder: Recorder, workers: Workers) -> None:
        """Start empty.

        Args:
            workers: hash and copy what is large.
        """
        self._kept = KeptAnswers(max_bytes)
        self._flights: dict[Hashable, _Flight] = {}
        self._recorder = recorder
        self._workers = workers

    @property
    def size_bytes(self) -> int:
        """Bytes of the answers that are kept."""
        return self._kept.size_bytes

    @property
    def predictions_under_way(self) -> int:
        """Items that are being predicted for whoever asks."""
        return len(self._flights)

    async def predict(
        self,
        items: Sequence[Encoded],
        scope: Hashable,
        ask: Ask,
        *,
        timeout_s: float,
        timing: Timing,
    ) -> list[Result]:
        """Return one result per item.

        Args:
            scope: what predicts them: equal items have equal answers within it alone.
            ask: predicts what there is no answer to.
            timing: gets the seconds spent waiting for a prediction that another has asked for.
        Raises:
            DeadlineExceeded: such a prediction took too long.
            ServingError: what `ask` raises.
        """
        deadline = perf_counter() + timeout_s
        keys = await self._keys(items, scope)
        if None in keys:
            return await ask(range(len(items)), timeout_s)
        places: dict[Hashable, int] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, place)
        found: dict[Hashable, Result] = {}
        for key in places:
            if (row := self._kept.get(key)) is not None:
                found[key] = row
        self._count(places, found)
        while missing := {key: place for key, place in places.items() if key not in found}:
            found |= await self._fly(missing, ask, deadline, timing)
        if len(places) == len(keys):
            return [found[key] for key in keys]
        return [_for_another(found[key]) for key in keys]

    async def _keys(self, items: Sequence[Encoded], scope: Hashable) -> list[Hashable]:
        if sum(map(size_bytes, items)) + ITEM_BYTES * len(items) <= INLINE_BYTES:
            return _keys(items, scope)
        return await self._workers.run(partial(_keys, items, scope))

    def _count(self, keys: Iterable[Hashable], found: Mapping[Hashable, Result]) -> None:
        for key in keys:
            outcome = "hit" if key in found else "shared" if key in self._flights else "miss"
            self._recorder.cached_items[outcome] += 1

    async def _fly(
        self, missing: Mapping[Hashable, int], ask: Ask, deadline: float, timing: Timing
    ) -> dict[Hashable, Result]:
        """Return results of what is missing: all of them, unless a prediction that another has
        asked for failed as a whole."""
        shared = {self._flights[key] for key in missing if key in self._flights}
        new = [key for key in missing if key not in self._flights]
        own: set[_Flight] = set()
        if new:
            asked = ask([missing[key] for key in new], deadline - perf_counter())
            own.add(self._start(new, asked))
        flights = shared | own
        for flight in flights:
            flight.waiters += 1
        try:
            for flight in own:
                await asyncio.wait([flight.task])
                flight.task.result()
            if shared:
                await _wait(shared, deadline, timing)
        finally:
            for flight in flights:
                self._leave(flight)
        found = {key: result for flight in own for key, result in flight.results.items()}
        for flight in shared:
            found |= {
                key: _for_another(result)
                for key, result in flight.results.items()
                if key in missing
            }
        return found

    def _start(self, keys: Sequence[Hashable], asked: Coroutine[Any, Any, list[Result]]) -> _Flight:
        flight = _Flight(keys, asyncio.create_task(asked))
        for key in keys:
            self._flights[key] = flight
        flight.task.add_done_callback(partial(self._land, flight))
        return flight

    def _leave(self, flight: _Flight) -> None:
        flight.waiters -= 1
        if not flight.waiters and not flight.task.done():
            self._forget(flight)
            flight.task.cancel()

    def _forget(self, flight: _Flight) -> None:
        for key in flight.keys:
            if self._flights.get(key) is flight:
                del self._flights[key]

    def _land(self, flight: _Flight, task: asyncio.Task[list[Result]]) -> None:
        self._forget(flight)
        if task.cancelled() or task.exception() is not None:
            return
        flight.results = dict(zip(flight.keys, task.result(), strict=True))
        rows = {key: row for key, row in flight.results.items() if isinstance(row, Row)}
        size = sum(map(row_bytes, rows.values()))
        if size <= INLINE_BYTES:
            self._keep(_copies(rows))
        elif size <= self._kept.most_bytes:
            copying = self._workers.run(partial(_copies, rows))
            copying.add_done_callback(lambda copied: self._keep(copied.result()))

    def _keep(self, answers: Mapping[Hashable, Answer]) -> None:
        for key, answer in answers.items():
            self._kept.put(key, answer)


async def _wait(flights: Iterable[_Flight], deadline: float, timing: Timing) -> None:
    started_at = perf_counter()
    tasks = [flight.task for flight in flights]
    _, late = await asyncio.wait(tasks, timeout=max(0.0, deadline - started_at))
    timing.batch_wait = max(timing.batch_wait, perf_counter() - started_at)
    if late:
        raise DeadlineExceeded("The model gave no result within its deadline")


def _keys(items: Sequence[Encoded], scope: Hashable) -> list[Hashable]:
    """Return a key for each item, None for one whose content cannot be hashed."""
    digests = map(digest, items)
    return [None if content is None else (scope, content) for content in digests]


def _copies(rows: Mapping[Hashable, Row]) -> dict[Hashable, Answer]:
    copies = ((key, copy_row(row)) for key, row in rows.items())
    return {key: copy for key, copy in copies if copy is not None}


def _for_another(result: Result) -> Result:
    return hand_out(result) if isinstance(result, Row) else result
