"""A JPEG of 512x512 pixels through a convolutional network in PyTorch: what is served, against the
framework in a loop at its best batch size; and how long callers wait at half of saturation.

The loop's items are decoded already, and all cores compute one batch. It is tried with each of
SIZES first, so that what is served is not compared with a loop that a bad size slows down. A round
takes twice `Effort.seconds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from rayserve_app.bench.figure import (
    Effort,
    Figure,
    MeasurementFailed,
    Row,
    at_least,
    at_most,
    require_no_errors,
)
from rayserve_app.bench.figures import frameworks
from rayserve_app.bench.framework_loop import Pace, framework_loop
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, open_loop, percentile
from rayserve_app.bench.saturation import search

MODEL: Final = "torch-network"
MOST_ITEMS: Final = 8
"""Of a batch that is served."""

CALLERS: Final = frameworks.CALLERS * MOST_ITEMS
CASE: Final = f"512 px JPEG, {CALLERS} callers"
SIZES: Final = (1, 2, 4, 8, 16)
OF_LOOP: Final = at_least(0.95)
BATCHES: Final = at_most(3)
"""The 99th percentile of the latency, as a multiple of the time of one full batch."""

SECONDS_FACTOR: Final = 2
"""A batch takes a fifth of a second: a measurement has to hold enough of them."""


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    target = frameworks.target(instance, MODEL)
    longer = effort._replace(seconds=SECONDS_FACTOR * effort.seconds)
    with framework_loop(instance, MODEL) as loop:
        paces = {size: await loop(size, effort.seconds / 2) for size in SIZES}
        best = max(paces, key=lambda size: paces[size].per_s)
        served = frameworks.row(
            CASE, *await frameworks.pairs(target, CALLERS, loop, best, longer), OF_LOOP
        )
        found = await search(target, seconds=longer.seconds, connections=CALLERS)
        if not found.per_s:
            raise MeasurementFailed("no rate was kept up with")
        loads: list[Load] = []
        batches: list[Pace] = []
        for seed in range(effort.rounds):
            loads.append(
                await open_loop(target, rate=found.per_s / 2, seconds=longer.seconds, seed=seed)
            )
            batches.append(await loop(MOST_ITEMS, effort.seconds / 2))
    require_no_errors({"half of saturation": loads})
    return [served, half_row(loads, batches, found.per_s)]


def half_row(loads: Sequence[Load], batches: Sequence[Pace], per_s: float) -> Row:
    """Return the row of the latency at half of saturation, from rounds of it and of full batches
    in the loop. The percentile is one of all rounds, since each has a hundred requests or so."""
    latencies = sorted(latency for load in loads for latency in load.latencies)
    batch_ms = median(pace.p50_ms for pace in batches)
    ratio = percentile(latencies, 99) * 1e3 / batch_ms
    details = {"saturation_per_s": per_s, "loop_batch_p50_ms": batch_ms}
    case = "512 px JPEG, half of saturation, p99"
    return Row(case, [ratio], "x full batch", BATCHES, {"served": loads}, details)


FIGURE: Final = Figure((MODEL,), measure)
