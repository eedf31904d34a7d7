"""Requests per second of the image-size example, against the least that a user writes by hand.

Both open the same image with Pillow and answer the same JSON, from replicas of one Serve instance,
through its HAProxy. `Effort.seconds` is one closed-loop run.
"""

from __future__ import annotations

import json
from functools import partial
from statistics import median
from typing import Final, NamedTuple

from rayserve_app.bench import pictures
from rayserve_app.bench.answer import fetch
from rayserve_app.bench.echo import echo_server
from rayserve_app.bench.figures.figure import Figure, MeasurementFailed, require_no_errors
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, closed_loop
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort, interleave, median_ratio

NAME: Final = "image-example"
CONNECTIONS: Final = (1, 16)
LEAST_RATIO: Final = 0.8
LEAST_HEADROOM: Final = 2.0
"""How many times the fastest server the load generator alone must reach."""

WARM_UP_S: Final = 0.3


class Picture(NamedTuple):
    """An encoded image and its media type."""

    name: str
    data: bytes
    content_type: str

    def target(self, url: str) -> Target:
        return Target.post(url, self.data, self.content_type)


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    images = [
        Picture("PNG", pictures.png(68), "image/png"),
        Picture("JPEG", pictures.jpeg(512), "image/jpeg"),
    ]
    ours, minimal = instance.url("/image-example/invocations"), instance.url("/minimal")
    for image in images:
        await _check_same_answer(image, ours, minimal)
    rows = []
    with echo_server() as echo:
        for image in images:
            targets = [image.target(url) for url in (ours, minimal, f"{echo}/")]
            for connections in CONNECTIONS:
                case = f"{len(image.data) / 1e3:.0f} KB {image.name}, c={connections}"
                rows += await _compare(case, targets, connections, effort)
    return rows


async def _compare(case: str, targets: list[Target], connections: int, effort: Effort) -> list[Row]:
    """Measure ours against the minimal ingress, and the load generator alone."""
    for target in targets:
        await closed_loop(target, connections=connections, seconds=WARM_UP_S)
    ours, minimal, echo = (
        partial(closed_loop, target, connections=connections, seconds=effort.seconds)
        for target in targets
    )
    pairs = await interleave(effort.rounds, ours, minimal)
    alone = await echo()
    require_no_errors(case, [load for pair in pairs for load in pair])
    require_no_errors("echo server", [alone])
    first, second = zip(*pairs, strict=True)
    fastest = max(_rate(first), _rate(second))
    return [
        Row(
            NAME,
            case,
            median_ratio((a.rate, b.rate) for a, b in pairs),
            "x minimal",
            Bound("at least", LEAST_RATIO),
            {
                **_summary("ours", first),
                **_summary("minimal", second),
                "generator_cores": median(load.generator_cpu for load in first + second),
            },
        ),
        Row(
            "load generator",
            case,
            alone.rate / fastest,
            "x fastest",
            Bound("at least", LEAST_HEADROOM),
            {"echo_per_s": alone.rate, "echo_p50_ms": alone.percentile(50) * 1e3},
        ),
    ]


def _rate(loads: tuple[Load, ...]) -> float:
    return median(load.rate for load in loads)


def _summary(name: str, loads: tuple[Load, ...]) -> dict[str, float]:
    return {
        f"{name}_per_s": _rate(loads),
        f"{name}_p50_ms": median(load.percentile(50) for load in loads) * 1e3,
        f"{name}_p99_ms": median(load.percentile(99) for load in loads) * 1e3,
    }


async def _check_same_answer(image: Picture, ours: str, minimal: str) -> None:
    answers = [await fetch(image.target(url)) for url in (ours, minimal)]
    values = [json.loads(answer.body) for answer in answers]
    if values[0] != values[1]:
        raise MeasurementFailed(f"Unlike answers to one {image.name}: {values}")


FIGURE: Final = Figure(NAME, ("image-example", "minimal"), measure)
