"""Requests per second of one JPEG in each protocol's envelope, against the same as a raw body.

All go to the image-size example, which reads headers only: what differs is what its replica and
HAProxy do with the envelope. A round is `SECONDS_FACTOR * Effort.seconds` of each, in short turns,
so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Final

from rayserve_app.bench import pictures
from rayserve_app.bench.answer import fetch
from rayserve_app.bench.envelopes import Envelope, all_envelopes
from rayserve_app.bench.figures.figure import Figure, MeasurementFailed, require_no_errors
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, closed_loop, warm_up
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort, take_turns
from rayserve_app.bench.summary import rate_ratios, stages, summary

NAME: Final = "protocols"
MODEL: Final = "image-example"
CONNECTIONS: Final = 16
LEAST_RATIO: Final = 0.7
BOUNDED: Final = "base64 JSON"
"""The envelopes that have a target: those whose name begins so."""

SECONDS_FACTOR: Final = 0.5
TURN_S: Final = 0.25


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    image = pictures.jpeg(pictures.SIDE)
    envelopes = all_envelopes(image, "image/jpeg", MODEL)
    targets = [each.target(instance.url(f"/{MODEL}")) for each in envelopes]
    for envelope, target in zip(envelopes, targets, strict=True):
        await _check_answer(envelope, target)
    await warm_up(*targets, connections=CONNECTIONS)
    loads = await take_turns(
        effort.rounds * max(1, round(SECONDS_FACTOR * effort.seconds / TURN_S)),
        [partial(closed_loop, each, connections=CONNECTIONS, seconds=TURN_S) for each in targets],
    )
    for envelope, own in zip(envelopes, loads, strict=True):
        require_no_errors(envelope.name, own)
    names = [each.name for each in envelopes]
    return rows(f"{len(image) / 1e3:.0f} KB", names, loads)


def rows(size: str, names: Sequence[str], loads: Sequence[Sequence[Load]]) -> list[Row]:
    """Return a row per envelope, of which the first is what the others are compared with."""
    (first, *others), (raw, *rest) = names, loads
    cases = [f"{size} as {name}" for name in names]
    rates = [load.rate for load in raw]
    found = [Row.of_rounds(NAME, cases[0], rates, "/s", None, _details(raw), {first: raw})]
    for name, case, own in zip(others, cases[1:], rest, strict=True):
        target = Bound("at least", LEAST_RATIO) if name.startswith(BOUNDED) else None
        ratios, details = rate_ratios(own, raw), _details(own)
        found.append(Row.of_rounds(NAME, case, ratios, f"x {first}", target, details, {name: own}))
    return found


def _details(loads: Sequence[Load]) -> dict[str, float]:
    return {
        **summary(loads),
        **stages(loads),
        "generator_cores": median(load.generator_cpu for load in loads),
    }


async def _check_answer(envelope: Envelope, target: Target) -> None:
    answer = await fetch(target)
    if answer.status != 200 or envelope.read(answer) != [pictures.SIDE, pictures.SIDE]:
        raise MeasurementFailed(f"{envelope.name}: status {answer.status}, {answer.body[:200]!r}")


FIGURE: Final = Figure(NAME, (MODEL,), measure)
