"""A fast model beside a slow one that is busy, in one Serve instance, against the fast one alone.

The slow one computes on one core at most, and what is offered leaves a core of two free, which
`busy_cores` tells, of the whole machine. Both loads are open: requests come at the same random
times with and without the neighbour. One run takes `SECONDS_FACTOR * Effort.seconds`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

import psutil

from rayserve_app.bench import pictures
from rayserve_app.bench.figures.figure import Figure, require_no_errors
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, open_loop, warm_up
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort
from rayserve_app.bench.summary import stages, summary

NAME: Final = "slow-neighbour"
FAST: Final = "image-example"
SLOW: Final = "slow-texture"
FAST_PER_S: Final = 100.0
SLOW_PER_S: Final = 15.0
"""Each takes 40 ms of a core."""

MOST_RATIO: Final = 1.5
SECONDS_FACTOR: Final = 3
"""The 99th percentile is to have some requests above it."""


class Round(NamedTuple):
    """What was measured in turn; `slow` at the same time as `beside`."""

    alone: Load
    beside: Load
    slow: Load
    cores_alone: float
    """What all the machine was busy with."""
    cores_beside: float


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    image = pictures.jpeg(pictures.SIDE)
    fast, slow = (
        Target.post(instance.url(f"/{name}/invocations"), image, "image/jpeg")
        for name in (FAST, SLOW)
    )
    await warm_up(fast, slow, connections=1)
    rounds = [await run(fast, slow, effort, seed) for seed in range(effort.rounds)]
    require_no_errors(NAME, [load for each in rounds for load in each[:3]])
    return [row(rounds)]


async def run(fast: Target, slow: Target, effort: Effort, seed: int) -> Round:
    """Measure the fast model alone, then beside the slow one, at times that the seed says."""
    seconds = SECONDS_FACTOR * effort.seconds

    async def run_fast() -> Load:
        return await open_loop(
            fast, rate=FAST_PER_S, seconds=seconds, seed=seed, poisson=effort.has_random_arrivals
        )

    async def run_slow() -> Load:
        # The same seed would have its requests come together with some of the fast one's.
        return await open_loop(
            slow, rate=SLOW_PER_S, seconds=seconds, seed=~seed, poisson=effort.has_random_arrivals
        )

    psutil.cpu_percent()  # from here on
    alone = await run_fast()
    cores_alone = _busy_cores()
    beside, beside_slow = await asyncio.gather(run_fast(), run_slow())
    return Round(alone, beside, beside_slow, cores_alone, _busy_cores())


def _busy_cores() -> float:
    """Return how many cores the machine was busy with since it was asked last."""
    return psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1)


def row(rounds: Sequence[Round]) -> Row:
    """Return the row of the fast model's 99th percentile, beside the slow one against alone."""
    alone, beside, slow, cores_alone, cores_beside = zip(*rounds, strict=True)
    return Row.of_rounds(
        NAME,
        f"{FAST} at {FAST_PER_S:.0f}/s, p99",
        [b.percentile(99) / a.percentile(99) for a, b in zip(alone, beside, strict=True)],
        "x alone",
        Bound("at most", MOST_RATIO),
        {
            **summary(alone, "alone_"),
            **summary(beside, "beside_"),
            **summary(slow, "slow_"),
            "alone_busy_cores": median(cores_alone),
            "beside_busy_cores": median(cores_beside),
            **stages(beside),
        },
        {"alone": alone, "beside": beside, "slow": slow},
    )


FIGURE: Final = Figure(NAME, (FAST, SLOW), measure)
