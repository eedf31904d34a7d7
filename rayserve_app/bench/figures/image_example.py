"""Requests per second of the image-size example: the image as the body, against the least that a
user writes by hand, and in base64 JSON, against the body alone.

Both servers open the same image with Pillow and answer the same JSON, from replicas of one Serve
instance, through its HAProxy. One closed-loop run takes `Effort.seconds` where a bound is set on
requests per second of many callers, else half of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from statistics import median
from typing import Final

from rayserve_app.bench import pictures
from rayserve_app.bench.answer import fetch
from rayserve_app.bench.echo import echo_server
from rayserve_app.bench.envelopes import Envelope, base64_json, raw_body
from rayserve_app.bench.figures.figure import Figure, MeasurementFailed, require_no_errors
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, closed_loop, warm_up
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort, take_turns
from rayserve_app.bench.summary import rate_ratios, stages, summary

NAME: Final = "image-example"
MODEL: Final = "image-example"
CONNECTIONS: Final = (1, 16, 64)
CROWD: Final = 16
"""The connections at which the bounds of many callers hold."""

PNG: Final = "10 KB PNG"
JPEG: Final = "130 KB JPEG"

LEAST_OF_MINIMAL: Final[Mapping[int, float]] = {1: 0.8, CROWD: 0.9}
"""By connections."""

LEAST_OF_RAW: Final[Mapping[tuple[str, int], float]] = {(JPEG, CROWD): 0.8}
"""Of base64 JSON, by image and connections."""

LEAST_HEADROOM: Final = 2.0
"""How many times the fastest server the load generator alone must reach."""


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    images = {
        PNG: raw_body(pictures.png(pictures.SMALL_SIDE), "image/png"),
        JPEG: raw_body(pictures.jpeg(pictures.SIDE), "image/jpeg"),
    }
    ours, minimal = instance.url(f"/{MODEL}"), instance.url("/minimal")
    rows: list[Row] = []
    with echo_server() as echo:
        for image, raw in images.items():
            by_hand = Target.post(minimal, raw.body, raw.content_type)
            targets = [raw.target(ours), by_hand, base64_json(raw.body).target(ours)]
            await _check_same_answer(image, targets)
            for connections in CONNECTIONS:
                loads = await _measure(targets, connections, effort)
                require_no_errors(f"{image}, c={connections}", chain(*loads))
                rows += size_rows(image, connections, loads)
                rows.append(await _headroom(image, raw, echo, connections, loads, effort))
    return rows


async def _measure(
    targets: Sequence[Target], connections: int, effort: Effort
) -> list[tuple[Load, ...]]:
    await warm_up(*targets, connections=connections)
    seconds = effort.seconds if connections == CROWD else effort.seconds / 2
    return await take_turns(
        effort.rounds,
        [
            partial(closed_loop, target, connections=connections, seconds=seconds)
            for target in targets
        ],
    )


def size_rows(image: str, connections: int, loads: Sequence[Sequence[Load]]) -> list[Row]:
    """Return the rows of the raw body against the minimal ingress and of base64 JSON against the
    raw body, from the rounds of ours, the minimal ingress's and those of base64 JSON."""
    raw, minimal, packed = loads
    of_minimal = LEAST_OF_MINIMAL.get(connections)
    of_raw = LEAST_OF_RAW.get((image, connections))
    return [
        Row.of_rounds(
            NAME,
            f"{image}, c={connections}",
            rate_ratios(raw, minimal),
            "x minimal",
            None if of_minimal is None else Bound("at least", of_minimal),
            {
                **summary(raw, "ours_"),
                **summary(minimal, "minimal_"),
                **stages(raw),
                "generator_cores": median(load.generator_cpu for load in (*raw, *minimal)),
            },
            {"ours": raw, "minimal": minimal},
        ),
        Row.of_rounds(
            NAME,
            f"{image} as base64 JSON, c={connections}",
            rate_ratios(packed, raw),
            "x raw",
            None if of_raw is None else Bound("at least", of_raw),
            {**summary(packed), **stages(packed)},
            {"base64 JSON": packed},
        ),
    ]


async def _headroom(
    image: str,
    envelope: Envelope,
    echo: str,
    connections: int,
    loads: Sequence[Sequence[Load]],
    effort: Effort,
) -> Row:
    """Measure the load generator alone, against a server that does nothing."""
    target = Target.post(f"{echo}/", envelope.body, envelope.content_type)
    alone = await closed_loop(target, connections=connections, seconds=effort.seconds / 2)
    require_no_errors("echo server", [alone])
    fastest = max(median(load.rate for load in own) for own in loads)
    return Row(
        "load generator",
        f"{image}, c={connections}",
        alone.rate / fastest,
        "x fastest",
        Bound("at least", LEAST_HEADROOM),
        summary([alone], "echo_"),
    )


async def _check_same_answer(image: str, targets: Sequence[Target]) -> None:
    values = [json.loads((await fetch(target)).body) for target in targets]
    if any(value != values[0] for value in values):
        raise MeasurementFailed(f"Unlike answers to one {image}: {values}")


FIGURE: Final = Figure(NAME, (MODEL, "minimal"), measure)
