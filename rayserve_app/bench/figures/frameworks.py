"""Each framework through HTTP, against the same model called in a loop with the same batch size.

A request carries one JPEG. `CALLERS` times as many as a batch holds wait at any time, so that the
framework never does; then one caller alone, batches of one, which pays for HTTP and decoding one
after the other. `loop_item_ms` is what the framework alone takes per item: the target is for models
that take over 20 ms.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final, TypeAlias

from rayserve_app.bench.figures.figure import Figure, MeasurementFailed, require_no_errors
from rayserve_app.bench.framework_loop import Pace
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, closed_loop
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort, interleave, median_ratio
from rayserve_app.bench.subjects import (
    CLOSURE,
    MXNET,
    SAGEMAKER,
    TENSORFLOW,
    TORCH,
    YOLOV3,
    Subject,
)
from rayserve_app.mxnet_environment import find_python

NAME: Final = "frameworks"
SUBJECTS: Final = (CLOSURE, TENSORFLOW, TORCH, MXNET, SAGEMAKER, YOLOV3)
CALLERS: Final = 4
LEAST_RATIO: Final = 0.85
SECONDS_FACTOR: Final = 2
"""A batch takes a fifth of a second: a measurement has to hold enough of them."""
ALONE_FACTOR: Final = 0.5

Loop: TypeAlias = Callable[[int, float], Awaitable[Pace]]
"""Measures a model in a loop, with a batch size, for some seconds."""


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    rows: list[Row] = []
    for subject in SUBJECTS:
        with _loop(instance, subject) as loop:
            rows += await _compare(instance, effort, subject, loop)
    return rows


async def _compare(
    instance: Instance, effort: Effort, subject: Subject, loop: Loop
) -> tuple[Row, Row]:
    target = subject.target(instance)

    async def pairs(callers: int, batch_size: int, seconds: float) -> list[tuple[Load, Pace]]:
        async def served() -> Load:
            return await closed_loop(target, connections=callers, seconds=seconds)

        async def looped() -> Pace:
            return await loop(batch_size, seconds)

        await served()
        measured = await interleave(effort.rounds, served, looped)
        require_no_errors(subject.application, [load for load, _ in measured])
        return measured

    size, seconds = subject.batch_size, effort.seconds
    case = f"{subject.framework}, {subject.application}"
    full = await pairs(CALLERS * size, size, SECONDS_FACTOR * seconds)
    alone = await pairs(1, 1, ALONE_FACTOR * seconds)
    return (
        row(f"{case}, batches of {size}", full, Bound("at least", LEAST_RATIO)),
        row(f"{case}, one caller", alone, None),
    )


def row(case: str, pairs: list[tuple[Load, Pace]], target: Bound | None) -> Row:
    """Return the row of what was measured in turn, through HTTP and in the loop."""
    loads, paces = zip(*pairs, strict=True)
    loop_per_s = median(pace.per_s for pace in paces)
    return Row(
        NAME,
        case,
        median_ratio((load.rate, pace.per_s) for load, pace in pairs),
        "x loop",
        target,
        {
            "served_per_s": median(load.rate for load in loads),
            "loop_per_s": loop_per_s,
            "loop_item_ms": 1e3 / loop_per_s,
            "served_p50_ms": median(load.percentile(50) for load in loads) * 1e3,
            "loop_batch_p50_ms": median(pace.p50_ms for pace in paces),
        },
    )


@contextmanager
def _loop(instance: Instance, subject: Subject) -> Iterator[Loop]:
    """Run the model in a process of its own, as nice as the replicas are."""
    python = Path(sys.executable)
    if subject is MXNET:
        python = find_python(os.environ, Path(sys.prefix))
    command = [str(python), "-m", "rayserve_app.bench.framework_loop", str(instance.config_path)]
    with subprocess.Popen(
        [*command, subject.application], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        asked, told = process.stdin, process.stdout
        if asked is None or told is None:
            raise MeasurementFailed("no pipes to the loop")

        async def measure_pace(batch_size: int, seconds: float) -> Pace:
            asked.write(f"{batch_size} {seconds}\n")
            asked.flush()
            line = await asyncio.to_thread(told.readline)
            if not line:
                raise MeasurementFailed(f"the loop of {subject.application} ended")
            return Pace(**json.loads(line))

        try:
            yield measure_pace
        finally:
            process.kill()


FIGURE: Final = Figure(NAME, tuple(each.application for each in SUBJECTS), measure)
