"""The highest rate of requests that a server keeps up with, found by offering rates to it.

A closed loop gives the first guess; then the server is offered Poisson arrivals in an open loop,
at rates that close in on the highest one that it keeps up with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count
from statistics import median
from typing import Final, NamedTuple

from rayserve_app.bench.load import Load, Target, closed_loop, open_loop, send_once

PRECISION: Final = 0.05
"""How far the rate may lie below one that was not kept up with, relative to it."""

STEP: Final = 1.2
"""By what the first guess is moved until both a rate that is kept up with and one that is not are
known."""

MOST_STEPS: Final = 12

LEAST_SERVED: Final = 0.98
"""Of what is offered, as far as the growth of the queue tells."""

LEAST_REQUESTS: Final = 500
LONGEST: Final = 3
"""A rate is offered for longer, up to so many times, until there are so many requests: with fewer,
chance makes queues grow that would not."""

DRAIN_TIMEOUT_S: Final = 30.0


class Saturation(NamedTuple):
    """What a search found."""

    per_s: float
    """The highest rate that was kept up with, below all that were not; 0 if there is none."""
    steps: Mapping[float, Load]
    """The outcome of each rate that was offered, in the order of the search."""


class Bracket:
    """The decisions of a search: which rate to offer next."""

    def __init__(self, guess: float, precision: float = PRECISION) -> None:
        self.kept: float | None = None
        """The highest rate that was kept up with."""
        self.missed: float | None = None
        """The lowest rate that was not."""
        self._next = guess
        self._precision = precision

    def next_rate(self) -> float | None:
        """Return the rate to offer next; None when both ends are close enough."""
        if self.kept is None:
            return self._next if self.missed is None else self.missed / STEP
        if self.missed is None:
            return self.kept * STEP
        if self.missed - self.kept <= self._precision * self.missed:
            return None
        return (self.kept + self.missed) / 2

    def record(self, rate: float, *, is_kept: bool) -> None:
        """Take note of what came of a rate."""
        if is_kept:
            self.kept = rate
        else:
            self.missed = rate


def keeps_up(load: Load) -> bool:
    """Return whether an open loop's requests were all answered 200, from a queue that did not grow.

    Where requests come faster by a factor `1 + g` than they are served, latency grows by g seconds
    per second; from the middle of the first third of the answers to that of the last are two
    thirds of the time.
    """
    if load.errors or load.unanswered or not load.latencies:
        return False
    third = max(1, len(load.latencies) // 3)
    first, last = median(load.latencies[:third]), median(load.latencies[-third:])
    growth = (last - first) / (load.seconds * 2 / 3)
    return growth <= 1 / LEAST_SERVED - 1


async def find(offer: Callable[[float], Awaitable[Load]], guess: float) -> Saturation:
    """Search with whatever serves a rate: the search without the server."""
    bracket = Bracket(guess)
    steps: dict[float, Load] = {}
    while len(steps) < MOST_STEPS and (rate := bracket.next_rate()) is not None:
        steps[rate] = await offer(rate)
        bracket.record(rate, is_kept=keeps_up(steps[rate]))
    return Saturation(bracket.kept or 0.0, steps)


async def search(
    target: Target | Sequence[Target], *, seconds: float, connections: int = 64
) -> Saturation:
    """Find the highest rate that a server keeps up with, to about 5 %.

    Takes a closed loop of `seconds`, and mostly four or five open loops, `MOST_STEPS` at most.

    Args:
        target: one request, or some to one server that are sent in turn.
        connections: of the closed loop; no fewer than keep the server busy.
    """
    seeds = count()

    async def offer(rate: float) -> Load:
        long = min(max(seconds, LEAST_REQUESTS / rate), LONGEST * seconds)
        load = await open_loop(target, rate=rate, seconds=long, seed=next(seeds))
        await _drain(target)
        return load

    guess = await closed_loop(target, connections=connections, seconds=seconds)
    if not guess.rate:
        return Saturation(0.0, {})
    return await find(offer, guess.rate)


async def _drain(target: Target | Sequence[Target]) -> None:
    """Wait until the server has done what it was left with: it answers one more request.

    Raises:
        TimeoutError: it does not.
    """
    first = target if isinstance(target, Target) else target[0]
    async with asyncio.timeout(DRAIN_TIMEOUT_S):
        await send_once(first)
