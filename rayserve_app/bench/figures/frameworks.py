"""Each framework through HTTP, against the same model called in a loop with the same batch size;
PyTorch is measured more closely in cnn.py.

A request carries one JPEG. `CALLERS` times as many as a batch holds wait at any time, so that the
framework never does; then one caller alone, batches of one, which pays for HTTP and decoding one
after the other. `loop_item_ms` is what the framework alone takes per item: the target is for models
that take over 20 ms.
"""

from __future__ import annotations

from statistics import median
from typing import Final

from rayserve_app.bench.figures.figure import Figure, require_no_errors
from rayserve_app.bench.framework_loop import Pace
from rayserve_app.bench.framework_process import Loop, framework_loop
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, closed_loop
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort, interleave
from rayserve_app.bench.subjects import (
    CLOSURE,
    MXNET,
    SAGEMAKER,
    TENSORFLOW,
    YOLOV3,
)
from rayserve_app.bench.summary import stages, summary

NAME: Final = "frameworks"
SUBJECTS: Final = (CLOSURE, TENSORFLOW, MXNET, SAGEMAKER, YOLOV3)
CALLERS: Final = 4
LEAST_RATIO: Final = 0.85
ALONE_FACTOR: Final = 1 / 3
"""Of `Effort.seconds`, with one caller."""


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    rows: list[Row] = []
    for subject in SUBJECTS:
        target, size = subject.target(instance), subject.batch_size
        case = f"{subject.framework}, {subject.application}"
        with framework_loop(instance, subject) as loop:
            full = await pairs(effort, target, CALLERS * size, loop, size)
            alone = await pairs(effort, target, 1, loop, 1, ALONE_FACTOR)
        bound = Bound("at least", LEAST_RATIO)
        rows.append(row(NAME, f"{case}, batches of {size}", full, bound))
        rows.append(row(NAME, f"{case}, one caller", alone, None))
    return rows


async def pairs(
    effort: Effort,
    target: Target,
    callers: int,
    loop: Loop,
    batch_size: int,
    seconds_factor: float = 1.0,
) -> list[tuple[Load, Pace]]:
    """Measure in turn what is served to so many callers and the loop with a batch size."""
    seconds = seconds_factor * effort.seconds

    async def served() -> Load:
        return await closed_loop(target, connections=callers, seconds=seconds)

    async def looped() -> Pace:
        return await loop(batch_size, seconds)

    await served()
    measured = await interleave(effort.rounds, served, looped)
    require_no_errors("served", [load for load, _ in measured])
    return measured


def row(figure: str, case: str, pairs: list[tuple[Load, Pace]], target: Bound | None) -> Row:
    """Return the row of what was measured in turn, through HTTP and in the loop."""
    loads, paces = zip(*pairs, strict=True)
    loop_per_s = median(pace.per_s for pace in paces)
    return Row.of_rounds(
        figure,
        case,
        [load.rate / pace.per_s for load, pace in pairs],
        "x loop",
        target,
        {
            "loop_per_s": loop_per_s,
            "loop_item_ms": 1e3 / loop_per_s,
            "loop_batch_p50_ms": median(pace.p50_ms for pace in paces),
            **summary(loads, "served_"),
            **stages(loads),
        },
        {"served": loads},
    )


FIGURE: Final = Figure(NAME, tuple(each.application for each in SUBJECTS), measure)
