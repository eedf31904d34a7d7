"""A JPEG of 512x512 pixels through a convolutional network in PyTorch: what is served, against the
framework in a loop at its best batch size; and how long callers wait at half of saturation.

The loop's items are decoded already, and all cores compute one batch. It is tried with each of
SIZES first, so that what is served is not compared with a loop that a bad size slows down. Where
PyTorch finds a GPU, the same is measured there, with images normalised on it, and once more with
images normalised before; such rows have no bounds and carry the device's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Final

from rayserve_app.bench import cuda
from rayserve_app.bench.figures import frameworks
from rayserve_app.bench.figures.figure import Figure, MeasurementFailed, require_no_errors
from rayserve_app.bench.framework_loop import Pace
from rayserve_app.bench.framework_process import Loop, framework_loop
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, open_loop, percentile
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort, interleave
from rayserve_app.bench.saturation import Saturation, search
from rayserve_app.bench.subjects import CUDA, CUDA_FLOATS, TORCH, Subject
from rayserve_app.bench.summary import stages, summary

NAME: Final = "cnn"
SIZES: Final = (1, 2, 4, 8, 16)
LEAST_RATIO: Final = 0.95
MOST_BATCHES: Final = 3.0
"""The 99th percentile of the latency, as a multiple of the time of one full batch."""

SECONDS_FACTOR: Final = 2
"""A batch takes a fifth of a second: a measurement has to hold enough of them."""

TRIAL_FACTOR: Final = 0.5
"""Of `Effort.seconds`, the loop with one batch size."""


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    rows = await _measure(instance, effort, TORCH, "512 px JPEG", has_bounds=True)
    if device := cuda.device_name():
        case = f"512 px JPEG, {device}"
        rows += await _measure(instance, effort, CUDA, case, has_bounds=False)
        rows.append(await _measure_floats(instance, effort, case))
    return rows


async def _measure_floats(instance: Instance, effort: Effort, case: str) -> Row:
    """Measure what is served if the GPU gets float32, against its loop."""
    target, size = CUDA_FLOATS.target(instance), CUDA_FLOATS.batch_size
    callers = frameworks.CALLERS * size
    with framework_loop(instance, CUDA_FLOATS) as loop:
        full = await frameworks.pairs(effort, target, callers, loop, size, SECONDS_FACTOR)
    return frameworks.row(NAME, f"{case}, normalised on the CPU, {callers} callers", full, None)


async def _measure(
    instance: Instance, effort: Effort, subject: Subject, case: str, *, has_bounds: bool
) -> list[Row]:
    target, size = subject.target(instance), subject.batch_size
    callers = frameworks.CALLERS * size
    with framework_loop(instance, subject) as loop:
        paces = await _try_sizes(loop, sorted({*SIZES, size}), TRIAL_FACTOR * effort.seconds)
        best = max(paces, key=lambda each: paces[each].per_s)
        full = await frameworks.pairs(effort, target, callers, loop, best, SECONDS_FACTOR)
        alone = await frameworks.pairs(effort, target, 1, loop, 1, frameworks.ALONE_FACTOR)
        seconds = SECONDS_FACTOR * effort.seconds
        saturation = await search(target, seconds=seconds, connections=callers)
        if not saturation.per_s:
            raise MeasurementFailed("no rate was kept up with")
        half = await _at_rate(effort, target, saturation.per_s / 2, loop, size)
    bound = Bound("at least", LEAST_RATIO) if has_bounds else None
    served = frameworks.row(NAME, f"{case}, {callers} callers", full, bound)
    return [
        _with_details(served, {"loop_best_batch": best, **loop_details(paces)}),
        frameworks.row(NAME, f"{case}, one caller", alone, None),
        half_row(f"{case}, half of saturation", half, saturation, has_bounds=has_bounds),
    ]


async def _try_sizes(loop: Loop, sizes: Sequence[int], seconds: float) -> dict[int, Pace]:
    return {size: await loop(size, seconds) for size in sizes}


async def _at_rate(
    effort: Effort, target: Target, rate: float, loop: Loop, size: int
) -> list[tuple[Load, Pace]]:
    """Measure in turn callers at a rate, each time at other times, and full batches in the loop."""
    seeds = iter(range(effort.rounds))

    async def served() -> Load:
        seconds = SECONDS_FACTOR * effort.seconds
        return await open_loop(
            target,
            rate=rate,
            seconds=seconds,
            seed=next(seeds),
            poisson=effort.has_random_arrivals,
        )

    batches = partial(loop, size, TRIAL_FACTOR * effort.seconds)
    measured = await interleave(effort.rounds, served, batches)
    require_no_errors("half of saturation", [load for load, _ in measured])
    return measured


def half_row(
    case: str, pairs: Sequence[tuple[Load, Pace]], saturation: Saturation, *, has_bounds: bool
) -> Row:
    """Return the row of the latency at half of saturation, from rounds of it and of full batches
    in the loop. The percentile is one of all rounds, since each has a hundred requests or so."""
    loads, paces = zip(*pairs, strict=True)
    latencies = sorted(latency for load in loads for latency in load.latencies)
    batch_ms = median(pace.p50_ms for pace in paces)
    return Row(
        NAME,
        f"{case}, p99",
        percentile(latencies, 99) * 1e3 / batch_ms,
        "x full batch",
        Bound("at most", MOST_BATCHES) if has_bounds else None,
        {
            "saturation_per_s": saturation.per_s,
            "offered_per_s": saturation.per_s / 2,
            "loop_batch_p50_ms": batch_ms,
            **summary(loads, "served_"),
            **stages(loads),
        },
        {"served": loads},
        saturation,
    )


def loop_details(paces: Mapping[int, Pace]) -> dict[str, float]:
    return {f"loop_{size}_per_s": pace.per_s for size, pace in paces.items()}


def _with_details(row: Row, more: Mapping[str, float]) -> Row:
    return replace(row, details={**row.details, **more})


FIGURE: Final = Figure(
    NAME,
    (TORCH.application,),
    measure,
    gpu_applications=(CUDA.application, CUDA_FLOATS.application),
)
