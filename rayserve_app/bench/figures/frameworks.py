"""Each framework through HTTP, against the same model called in a loop with the same batch size;
PyTorch is measured more closely in cnn.py.

A request carries one JPEG. `CALLERS` times as many as a batch holds wait at any time, so that the
framework never does. `loop_per_s` is what the framework does alone: the target is for models that
take over 20 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from rayserve_app.bench import pictures
from rayserve_app.bench.figure import (
    Bound,
    Effort,
    Figure,
    Row,
    at_least,
    require_no_errors,
)
from rayserve_app.bench.framework_loop import Loop, Pace, framework_loop
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, closed_loop

SUBJECTS: Final = (
    ("closure", "texture", 8),
    ("TensorFlow", "tensorflow-network", 8),
    ("MXNet", "resnet-embedding", 8),
    ("SageMaker package", "texture-package", 1),
)
"""What stands for each framework, and the size of its batches."""

CALLERS: Final = 4
BOUND: Final = at_least(0.85)


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    rows: list[Row] = []
    for framework, application, size in SUBJECTS:
        case = f"{framework}, {application}, batches of {size}"
        with framework_loop(instance, application) as loop:
            found = await pairs(target(instance, application), CALLERS * size, loop, size, effort)
        rows.append(row(case, *found, BOUND))
    return rows


def target(instance: Instance, application: str) -> Target:
    """Return a request with one JPEG."""
    return instance.target(application, pictures.jpeg(pictures.SIDE), "image/jpeg")


async def pairs(
    target: Target, callers: int, loop: Loop, batch_size: int, effort: Effort
) -> tuple[list[Load], list[Pace]]:
    """Measure in turn what is served to so many callers and the loop with a batch size."""
    loads: list[Load] = []
    paces: list[Pace] = []
    for _ in range(effort.rounds + 1):
        loads.append(await closed_loop(target, connections=callers, seconds=effort.seconds))
        paces.append(await loop(batch_size, effort.seconds))
    require_no_errors({"served": loads[1:]})
    return loads[1:], paces[1:]


def row(case: str, loads: Sequence[Load], paces: Sequence[Pace], target: Bound | None) -> Row:
    """Return the row of what was measured in turn, through HTTP and in the loop."""
    ratios = [load.rate / pace.per_s for load, pace in zip(loads, paces, strict=True)]
    details = {"loop_per_s": median(pace.per_s for pace in paces)}
    return Row(case, ratios, "x loop", target, {"served": loads}, details)


FIGURE: Final = Figure(tuple(application for _, application, _ in SUBJECTS), measure)
