"""What one replica of a gateway costs: the image-size example through it, against directly.

Both ways begin at HAProxy and end at the same replica. Before anything is measured, the answers to
every protocol's requests are compared, those to wrong requests too. `Effort.seconds` is one
closed-loop run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Final

from rayserve_app.bench import pictures
from rayserve_app.bench.answer import WholeAnswer, fetch
from rayserve_app.bench.applications import GATEWAY
from rayserve_app.bench.envelopes import Envelope, all_envelopes, raw_body
from rayserve_app.bench.figures.figure import Figure, require_no_errors
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, closed_loop, warm_up
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort, interleave
from rayserve_app.bench.summary import rate_ratios, stages, summary

NAME: Final = "gateway"
MODEL: Final = "image-example"
MOST_ADDED_MS: Final = 1.2
"""At one connection."""

LEAST_RATIO: Final = 0.45
"""Of the requests per second, at CONNECTIONS."""

CONNECTIONS: Final = 16
SECONDS_FACTOR: Final = 2 / 3
LEARN_TIMEOUT_S: Final = 20.0

PER_REQUEST: Final = frozenset({"date", "server-timing", "x-request-id"})
"""Headers that no two answers need to have in common."""


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    direct, through = instance.url(f"/{MODEL}"), instance.url("")
    images = {
        "10 KB PNG": raw_body(pictures.png(pictures.SMALL_SIDE), "image/png"),
        "130 KB JPEG": raw_body(pictures.jpeg(pictures.SIDE), "image/jpeg"),
    }
    await _await_model(images["10 KB PNG"].target(through))
    rows = [await _compare_answers(list(images.values()), direct, through)]
    for name, envelope in images.items():
        for connections in (1, CONNECTIONS):
            pairs = await _measure(envelope, direct, through, connections, effort)
            rows.append(row(f"{name}, c={connections}", pairs, connections))
    return rows


async def _await_model(target: Target) -> None:
    """Wait until the gateway knows the model, which may have started after it."""
    async with asyncio.timeout(LEARN_TIMEOUT_S):
        while (await fetch(target)).status != 200:
            await asyncio.sleep(LEARN_TIMEOUT_S / 100)


async def _measure(
    envelope: Envelope, direct: str, through: str, connections: int, effort: Effort
) -> list[tuple[Load, Load]]:
    targets = [envelope.target(url) for url in (direct, through)]
    await warm_up(*targets, connections=connections)
    seconds = SECONDS_FACTOR * effort.seconds
    first, second = (
        partial(closed_loop, target, connections=connections, seconds=seconds) for target in targets
    )
    pairs = await interleave(effort.rounds, first, second)
    require_no_errors(NAME, [load for pair in pairs for load in pair])
    return pairs


def row(case: str, pairs: Sequence[tuple[Load, Load]], connections: int) -> Row:
    """Return the row of what was measured in turn, directly and through the gateway: at one
    connection what the gateway adds, at more what it keeps."""
    added_ms = [(b.percentile(50) - a.percentile(50)) * 1e3 for a, b in pairs]
    direct, through = zip(*pairs, strict=True)
    ratios = rate_ratios(through, direct)
    details = {
        **summary(direct, "direct_"),
        **summary(through, "gateway_"),
        **stages(through),
    }
    loads = {"direct": direct, "gateway": through}
    if connections == 1:
        target = Bound("at most", MOST_ADDED_MS)
        details = {"ratio": median(ratios), **details}
        return Row.of_rounds(NAME, case, added_ms, "ms added", target, details, loads)
    target = Bound("at least", LEAST_RATIO)
    details = {"added_ms": median(added_ms), **details}
    return Row.of_rounds(NAME, case, ratios, "x direct", target, details, loads)


async def _compare_answers(raw: Sequence[Envelope], direct: str, through: str) -> Row:
    """Ask both ways, with every image in every protocol's envelope, whole and cut."""
    whole = [
        envelope
        for each in raw
        for envelope in all_envelopes(each.body, each.content_type, MODEL)
        if envelope.repeats
    ]
    asked = [*whole, *(replace(each, body=each.body[: len(each.body) // 2]) for each in whole)]
    alike = [
        are_alike(await fetch(each.target(direct)), await fetch(each.target(through)))
        for each in asked
    ]
    share = sum(alike) / len(alike)
    compared = {"compared": float(len(alike))}
    return Row(NAME, "identical answers", share, "of all", Bound("at least", 1.0), compared)


def are_alike(first: WholeAnswer, second: WholeAnswer) -> bool:
    """Return whether two answers are the same in everything but PER_REQUEST."""
    (one, other) = (
        {name: value for name, value in each.headers.items() if name not in PER_REQUEST}
        for each in (first, second)
    )
    return (first.status, one, first.body) == (second.status, other, second.body)


FIGURE: Final = Figure(NAME, (MODEL, GATEWAY), measure)
