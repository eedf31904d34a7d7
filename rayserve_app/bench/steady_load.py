"""Requests to several models at a steady rate, of which every outcome is kept with its times: what
a fault does to them is read from there."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import cycle, pairwise
from time import perf_counter
from typing import Final, NamedTuple

from rayserve_app.bench.connection import Connection
from rayserve_app.bench.load import Target

GIVE_UP_S: Final = 60.0

REFUSALS: Final = frozenset({424, 429, 503, 504})
"""What protocols answer where a model cannot in time; SageMaker's 424 holds the model's own."""


class Asked(NamedTuple):
    """One request, over and over."""

    model: str
    deadline_s: float
    target: Target


class Outcome(NamedTuple):
    """What became of one request; times by `perf_counter`."""

    asked: Asked
    sent_at: float
    ended_at: float
    status: int
    """0 if there was no answer."""
    media_type: str = ""

    @property
    def is_refusal(self) -> bool:
        """Whether it is an error in the words of a protocol, which are JSON here."""
        return self.status in REFUSALS and self.media_type.startswith("application/json")


class Outcomes(list[Outcome]):
    """Those of one run, in the order of their ends."""

    def since(self, moment: float) -> Outcomes:
        """Return those that ended after a moment, and so may have met what happened then."""
        return Outcomes(each for each in self if each.ended_at >= moment)

    def of(self, models: Iterable[str]) -> Outcomes:
        return Outcomes(each for each in self if each.asked.model in models)

    @property
    def lost(self) -> int:
        """Requests without an answer, or with one that is in no protocol's words."""
        return sum(each.status != 200 and not each.is_refusal for each in self)

    @property
    def refused(self) -> int:
        return sum(each.is_refusal for each in self)

    @property
    def statuses(self) -> dict[str, float]:
        """How many of each status but 200 there were."""
        counts = Counter(each.status for each in self if each.status != 200)
        return {f"status_{status}": count for status, count in sorted(counts.items())}

    @property
    def latest_s(self) -> float:
        """By how much the latest answer missed its deadline; 0 if all kept theirs."""
        late = (each.ended_at - each.sent_at - each.asked.deadline_s for each in self)
        return max([0.0, *late])

    def longest_gap_s(self, since: float, until: float) -> float:
        """Return the longest time without a good answer between two moments."""
        ends = [since, *(each.ended_at for each in self if each.status == 200), until]
        return max(later - earlier for earlier, later in pairwise(ends))


class SteadyLoad:
    """Sends requests in turn while its block runs, evenly spaced, whatever comes back."""

    def __init__(self, asked: Sequence[Asked], rate: float) -> None:
        self._asked = cycle(asked)
        self._interval_s = 1 / rate
        self._free: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.outcomes = Outcomes()

    async def __aenter__(self) -> SteadyLoad:
        self._sending = asyncio.create_task(self._send_all())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sending.cancel()
        await asyncio.gather(self._sending, *self._tasks, return_exceptions=True)
        for connection in self._free:
            connection.close()

    async def _send_all(self) -> None:
        due_at = perf_counter()
        while True:
            task = asyncio.create_task(self._send(next(self._asked)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            due_at += self._interval_s
            await asyncio.sleep(max(0.0, due_at - perf_counter()))

    async def _send(self, asked: Asked) -> None:
        sent_at = perf_counter()
        status, media_type = 0, ""
        # As clients do: on a kept connection that the server has not closed.
        self._free = [each for each in self._free if each.is_open]
        connection = self._free.pop() if self._free else None
        try:
            async with asyncio.timeout(GIVE_UP_S):
                connection = connection or await Connection.open(*asked.target[:2])
                answer = await connection.send(asked.target.request)
            status, media_type = answer.status, answer.header("content-type")
            if answer.header("connection").lower() != "close":
                self._free.append(connection)
        except OSError:  # no answer, or one that is not HTTP's
            if connection is not None:
                connection.close()
        self.outcomes.append(Outcome(asked, sent_at, perf_counter(), status, media_type))
