"""Two frameworks at a time, against each alone.

Together, the two should do as much of their own work as they get of the machine: m'/m + t'/t is 1
where nothing is lost, and less where their threads get into each other's way.
"""

from __future__ import annotations

import asyncio
from statistics import median
from typing import Final

from rayserve_app.bench.applications import TWICE
from rayserve_app.bench.figures.figure import Figure, require_no_errors
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, closed_loop
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort
from rayserve_app.bench.subjects import MXNET, YOLOV3

NAME: Final = "neighbours"
SUBJECTS: Final = (YOLOV3, MXNET)
CONNECTIONS: Final = 2 * max(subject.batch_size for subject in SUBJECTS)
LEAST_SHARES: Final = 0.9
SECONDS_FACTOR: Final = 4 / 3
"""A batch takes a fifth of a second: a measurement has to hold enough of them."""


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    first, second = (
        subject.target(instance, TWICE.format(subject.application)) for subject in SUBJECTS
    )

    async def run(target: Target) -> Load:
        return await closed_loop(
            target, connections=CONNECTIONS, seconds=SECONDS_FACTOR * effort.seconds
        )

    shares, together = [], []
    for target in (first, second):
        await run(target)
    for _ in range(effort.rounds):
        alone = [await run(first), await run(second)]
        both = await asyncio.gather(run(first), run(second))
        require_no_errors(NAME, [*alone, *both])
        together.append([load.rate for load in both])
        shares.append(sum(b.rate / a.rate for a, b in zip(alone, both, strict=True)))
    tensorflow, mxnet = (median(rates) for rates in zip(*together, strict=True))
    return [
        Row.of_rounds(
            NAME,
            "two replicas of TensorFlow beside two of MXNet",
            shares,
            "sum of shares",
            Bound("at least", LEAST_SHARES),
            {"tensorflow_per_s": tensorflow, "mxnet_per_s": mxnet},
        )
    ]


FIGURE: Final = Figure(
    NAME, tuple(TWICE.format(subject.application) for subject in SUBJECTS), measure
)
