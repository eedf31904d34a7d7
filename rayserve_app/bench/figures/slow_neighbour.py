"""A fast model beside a slow one that is busy, in one Serve instance, against the fast one alone.

The slow one computes on one core at most, and what is offered leaves a core of two free, which
`busy_cores` says, of the whole machine. Both loads are open: requests come at the same random
times with and without the neighbour. One run takes three times `Effort.seconds`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

import psutil

from rayserve_app.bench import pictures
from rayserve_app.bench.figure import (
    Bound,
    Effort,
    Figure,
    Row,
    at_most,
    compare,
    p99,
    require_no_errors,
)
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, open_loop, warm_up

FAST: Final = "image-example"
SLOW: Final = "slow-texture"
FAST_PER_S: Final = 100.0
SLOW_PER_S: Final = 15.0
"""Each takes 40 ms of a core."""

BESIDE: Final = f"{FAST_PER_S:.0f}/s beside {SLOW_PER_S:.0f}/s, p99"
BOUND: Final = at_most(1.5)
SECONDS_FACTOR: Final = 3
"""The 99th percentile is to have some requests above it."""


class Round(NamedTuple):
    """What was measured in turn; `slow` at the same time as `beside`."""

    beside: Load
    alone: Load
    slow: Load
    busy_cores: float
    """What all the machine was busy with, beside the neighbour."""


def targets(instance: Instance) -> tuple[Target, Target]:
    """Return the requests to the fast model and to the slow one."""
    image = (pictures.jpeg(pictures.SIDE), "image/jpeg")
    return instance.target(FAST, *image), instance.target(SLOW, *image)


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    fast, slow = targets(instance)
    await warm_up(fast, slow, connections=1)
    rounds = [await run(fast, slow, effort, seed) for seed in range(effort.rounds)]
    return [row(f"{FAST} at {FAST_PER_S:.0f}/s, p99", rounds, BOUND)]


async def run(fast: Target, slow: Target, effort: Effort, seed: int) -> Round:
    """Measure the fast model alone, then beside the slow one, at times that the seed says."""
    seconds = SECONDS_FACTOR * effort.seconds

    async def run_fast() -> Load:
        return await open_loop(fast, rate=FAST_PER_S, seconds=seconds, seed=seed)

    alone = await run_fast()
    psutil.cpu_percent()  # from here on
    # The same seed would have the slow one's requests come together with some of the fast one's.
    beside, busy = await asyncio.gather(
        run_fast(), open_loop(slow, rate=SLOW_PER_S, seconds=seconds, seed=~seed)
    )
    return Round(beside, alone, busy, psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1))


def row(case: str, rounds: Sequence[Round], target: Bound | None) -> Row:
    """Return the row of the fast model's 99th percentile, beside the slow one against alone."""
    beside, alone, slow, busy_cores = zip(*rounds, strict=True)
    loads = {"beside": beside, "alone": alone, "slow": slow}
    require_no_errors(loads)
    details = {"busy_cores": median(busy_cores)}
    return compare(case, "x alone", loads, target, by=p99, details=details)


FIGURE: Final = Figure((FAST, SLOW), measure)
