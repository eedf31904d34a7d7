"""What an idle replica of the image-size example takes beyond the least that a Serve replica does.

USS is what would be free if the process ended, RSS all that it has mapped in memory.
"""

from __future__ import annotations

import asyncio
from statistics import median
from typing import Final, Literal

import psutil

from rayserve_app.bench.figures.figure import Figure, MeasurementFailed
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort

NAME: Final = "memory"
MOST_MB: Final = 60.0
PAUSE_S: Final = 1.0

Kind = Literal["uss", "rss"]
KINDS: Final[tuple[Kind, ...]] = ("uss", "rss")


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    ours, bare = (_only_replica(instance, name) for name in ("image-example", "bare"))
    samples: dict[Kind, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for _ in range(effort.rounds):
        await asyncio.sleep(PAUSE_S)
        for kind in KINDS:
            samples[kind].append((_megabytes(ours, kind), _megabytes(bare, kind)))
    return [_row(kind, pairs) for kind, pairs in samples.items()]


def _row(kind: Kind, pairs: list[tuple[float, float]]) -> Row:
    ours, bare = (median(values) for values in zip(*pairs, strict=True))
    return Row.of_rounds(
        NAME,
        f"idle replica beyond a bare one, {kind.upper()}",
        [first - second for first, second in pairs],
        "MB",
        Bound("at most", MOST_MB),
        {"ours_mb": ours, "bare_mb": bare},
    )


def _only_replica(instance: Instance, application: str) -> psutil.Process:
    replicas = instance.replicas(application)
    if len(replicas) != 1:
        raise MeasurementFailed(f"{len(replicas)} replicas of {application}, not one")
    return replicas[0]


def _megabytes(process: psutil.Process, kind: Kind) -> float:
    memory = process.memory_full_info()
    size: int = memory.uss if kind == "uss" else memory.rss
    return size / 1e6


FIGURE: Final = Figure(NAME, ("image-example", "bare"), measure)
