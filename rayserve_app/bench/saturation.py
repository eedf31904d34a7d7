"""The highest rate of requests that a server keeps up with, found by offering rates to it.

A closed loop gives the first guess; then the server is offered Poisson arrivals in an open loop,
at rates that close in on the highest one that it keeps up with.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from statistics import median
from typing import Final, NamedTuple

from rayserve_app.bench.load import Load, Requests, Target, closed_loop, fetch, open_loop

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


class Saturation(NamedTuple):
    """What a search found."""

    per_s: float
    """The highest rate that was kept up with, below all that were not; 0 if there is none."""
    steps: Mapping[float, Load]
    """The outcome of each rate that was offered, in the order of the search."""


def next_rate(guess: float, kept: float | None, missed: float | None) -> float | None:
    """Return the rate to offer next, from the highest that was kept up with and the lowest that was
    not; None when they are close enough."""
    if kept is None:
        return guess if missed is None else missed / STEP
    if missed is None:
        return kept * STEP
    return None if missed - kept <= PRECISION * missed else (kept + missed) / 2


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
    steps: dict[float, Load] = {}
    kept = missed = None
    while len(steps) < MOST_STEPS and (rate := next_rate(guess, kept, missed)) is not None:
        steps[rate] = await offer(rate)
        if keeps_up(steps[rate]):
            kept = rate
        else:
            missed = rate
    return Saturation(kept or 0.0, steps)


async def search(requests: Requests, *, seconds: float, connections: int = 64) -> Saturation:
    """Find the highest rate that a server keeps up with, to about 5 %.

    Takes a closed loop of `seconds`, and mostly four or five open loops, `MOST_STEPS` at most.

    Args:
        connections: of the closed loop; no fewer than keep the server busy.
    """
    seeds = count()
    first = requests if isinstance(requests, Target) else requests[0]

    async def offer(rate: float) -> Load:
        long = min(max(seconds, LEAST_REQUESTS / rate), LONGEST * seconds)
        load = await open_loop(requests, rate=rate, seconds=long, seed=next(seeds))
        await fetch(first)  # answered when the queue is empty
        return load

    guess = await closed_loop(requests, connections=connections, seconds=seconds)
    return await find(offer, guess.rate) if guess.rate else Saturation(0.0, {})
