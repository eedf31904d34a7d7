"""Each framework through HTTP, against the same model called in a loop with the same batch size;
and two frameworks at a time, against each alone.

A request carries one JPEG; there are always enough of them for four full batches. Together, the two
should do as much of their own work as they get of the machine: m'/m + t'/t is 1 where nothing is
lost, and less where their threads get into each other's way.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import IO, Final, NamedTuple

from rayserve_app.bench import pictures
from rayserve_app.bench.applications import TWICE
from rayserve_app.bench.figures.figure import Figure, MeasurementFailed, require_no_errors
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, closed_loop
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort, interleave, median_ratio
from rayserve_app.mxnet_environment import find_python

LEAST_RATIO: Final = 0.85
LEAST_SHARES: Final = 0.9
SECONDS_FACTOR: Final = 2
"""A batch takes a fifth of a second: a measurement has to hold enough of them."""


class Subject(NamedTuple):
    """A model of `configs/app.yaml`, the size of its batches, and whether it is MXNet's."""

    application: str
    framework: str
    batch_size: int
    side: int

    def target(self, instance: Instance, application: str | None = None) -> Target:
        url = instance.url(f"/{application or self.application}/invocations")
        return Target.post(url, pictures.jpeg(self.side), "image/jpeg")


TENSORFLOW: Final = Subject("yolov3", "TensorFlow", 10, 512)
MXNET: Final = Subject("resnet-embedding", "MXNet", 8, 512)


async def measure_frameworks(instance: Instance, effort: Effort) -> list[Row]:
    return [await _compare(instance, effort, subject) for subject in (TENSORFLOW, MXNET)]


async def _compare(instance: Instance, effort: Effort, subject: Subject) -> Row:
    seconds = SECONDS_FACTOR * effort.seconds
    target = subject.target(instance)

    async def served() -> Load:
        return await closed_loop(target, connections=4 * subject.batch_size, seconds=seconds)

    with _loop(instance, subject) as (asked, told):

        async def looped() -> float:
            asked.write(f"{seconds}\n")
            asked.flush()
            return float(await asyncio.to_thread(told.readline) or "nan")

        await served()
        pairs = await interleave(effort.rounds, served, looped)
    loads = [load for load, _ in pairs]
    require_no_errors(subject.application, loads)
    return Row(
        "frameworks",
        f"{subject.framework}, {subject.application}",
        median_ratio((load.rate, alone) for load, alone in pairs),
        "x loop",
        Bound("at least", LEAST_RATIO),
        {
            "served_per_s": median(load.rate for load in loads),
            "loop_per_s": median(alone for _, alone in pairs),
            "p50_ms": median(load.percentile(50) for load in loads) * 1e3,
            "batch_size": subject.batch_size,
        },
    )


@contextmanager
def _loop(instance: Instance, subject: Subject) -> Iterator[tuple[IO[str], IO[str]]]:
    """Run the model in a process of its own, as nice as the replicas are."""
    python = Path(sys.executable)
    if subject is MXNET:
        python = find_python(os.environ, Path(sys.prefix))
    command = [str(python), "-m", "rayserve_app.bench.framework_loop", str(instance.config_path)]
    with subprocess.Popen(
        [*command, subject.application, str(subject.batch_size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise MeasurementFailed("no pipes to the loop")
        try:
            yield process.stdin, process.stdout
        finally:
            process.kill()


async def measure_neighbours(instance: Instance, effort: Effort) -> list[Row]:
    seconds = SECONDS_FACTOR * effort.seconds
    first, second = (
        subject.target(instance, TWICE.format(subject.application))
        for subject in (TENSORFLOW, MXNET)
    )
    connections = 2 * max(TENSORFLOW.batch_size, MXNET.batch_size)

    async def run(target: Target) -> Load:
        return await closed_loop(target, connections=connections, seconds=seconds)

    shares, together = [], []
    for target in (first, second):
        await run(target)
    for _ in range(effort.rounds):
        alone = [await run(first), await run(second)]
        both = await asyncio.gather(run(first), run(second))
        require_no_errors("neighbours", [*alone, *both])
        together.append([load.rate for load in both])
        shares.append(sum(b.rate / a.rate for a, b in zip(alone, both, strict=True)))
    tensorflow, mxnet = (median(rates) for rates in zip(*together, strict=True))
    return [
        Row(
            "neighbours",
            "two replicas of TensorFlow beside two of MXNet",
            median(shares),
            "sum of shares",
            Bound("at least", LEAST_SHARES),
            {"tensorflow_per_s": tensorflow, "mxnet_per_s": mxnet},
        )
    ]


FRAMEWORKS: Final = Figure(
    "frameworks", (TENSORFLOW.application, MXNET.application), measure_frameworks
)
NEIGHBOURS: Final = Figure(
    "neighbours",
    tuple(TWICE.format(each.application) for each in (TENSORFLOW, MXNET)),
    measure_neighbours,
)
