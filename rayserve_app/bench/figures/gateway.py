"""What one replica of a gateway costs: the image-size example through it, against directly.

Both ways begin at HAProxy and end at the same replica. Before anything is measured, the answers to
every protocol's requests are compared, those to wrong requests too. One closed loop takes two
thirds of `Effort.seconds`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Final

from rayserve_app.bench import pictures
from rayserve_app.bench.connection import Answer
from rayserve_app.bench.envelopes import all_envelopes, raw_body
from rayserve_app.bench.figure import (
    Effort,
    Figure,
    Row,
    at_least,
    at_most,
    closed_loops,
    compare,
)
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, fetch

MODEL: Final = "image-example"
MOST_ADDED: Final = at_most(1.2)
"""Milliseconds, at one connection."""

LEAST_KEPT: Final = at_least(0.45)
"""Of the requests per second, at CONNECTIONS."""

CONNECTIONS: Final = 16
SECONDS_FACTOR: Final = 2 / 3
LEARN_TIMEOUT_S: Final = 20.0

PER_REQUEST: Final = frozenset({"date", "server-timing", "x-request-id", "x-rayserve-model"})
"""Headers that no two answers need to have in common; the last is the gateway's own."""


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    ways = {"gateway": instance.url(""), "direct": instance.url(f"/{MODEL}")}
    images = {name: raw_body(*image) for name, image in pictures.both().items()}
    await _await_model(images[pictures.PNG].target(ways["gateway"]))
    rows = [await _compare_answers(*ways.values())]
    for name, envelope in images.items():
        targets = {way: envelope.target(url) for way, url in ways.items()}
        for connections in (1, CONNECTIONS):
            loads = await closed_loops(
                targets,
                rounds=effort.rounds,
                connections=connections,
                seconds=SECONDS_FACTOR * effort.seconds,
            )
            rows.append(row(f"{name}, c={connections}", loads, connections))
    return rows


async def _await_model(target: Target) -> None:
    """Wait until the gateway knows the model, which may have started after it."""
    async with asyncio.timeout(LEARN_TIMEOUT_S):
        while (await fetch(target)).status != 200:
            await asyncio.sleep(LEARN_TIMEOUT_S / 100)


def row(case: str, loads: Mapping[str, Sequence[Load]], connections: int) -> Row:
    """Return the row of what was measured in turn, through the gateway and directly: at one
    connection what the gateway adds, at more what it keeps."""
    through, direct = loads.values()
    added_ms = [
        (b.percentile(50) - a.percentile(50)) * 1e3 for a, b in zip(direct, through, strict=True)
    ]
    if connections == 1:
        return Row(case, added_ms, "ms added", MOST_ADDED, loads)
    details = {"added_ms": median(added_ms)}
    return compare(case, "x direct", loads, LEAST_KEPT, details=details)


async def _compare_answers(through: str, direct: str) -> Row:
    """Ask both ways, with every image in every protocol's envelope, whole and cut."""
    whole = [
        envelope
        for image in pictures.both().values()
        for envelope in all_envelopes(*image, MODEL)
        if envelope.repeats
    ]
    asked = [*whole, *(replace(each, body=each.body[: len(each.body) // 2]) for each in whole)]
    alike = [
        are_alike(await fetch(each.target(direct)), await fetch(each.target(through)))
        for each in asked
    ]
    share = sum(alike) / len(alike)
    return Row("identical answers", [share], "of all", at_least(1), {}, {"compared": len(alike)})


def are_alike(first: Answer, second: Answer) -> bool:
    """Return whether two answers are the same in everything but PER_REQUEST."""
    one, other = (
        {name: value for name, value in each.headers.items() if name not in PER_REQUEST}
        for each in (first, second)
    )
    return (first.status, one, first.body) == (second.status, other, second.body)


FIGURE: Final = Figure((MODEL, "image-gateway"), measure)
