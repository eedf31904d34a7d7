"""Requests per second of one JPEG in each protocol's envelope, against the same as a raw body.

All go to the image-size example, which reads headers only: what differs is what its replica and
HAProxy do with the envelope. A round is `Effort.seconds / 2` of each, in short turns, so that
whatever else the machine does meets all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rayserve_app.bench import pictures
from rayserve_app.bench.envelopes import all_envelopes
from rayserve_app.bench.figure import (
    Effort,
    Figure,
    MeasurementFailed,
    Row,
    at_least,
    closed_loops,
    compare,
)
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, fetch

MODEL: Final = "image-example"
CONNECTIONS: Final = 16
BOUND: Final = at_least(0.7)
BOUNDED: Final = "base64 JSON"
"""The envelopes that have a target: those whose name begins so."""

TURN_S: Final = 0.25


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    image = pictures.jpeg(pictures.SIDE)
    envelopes = all_envelopes(image, "image/jpeg", MODEL)
    targets = {each.name: each.target(instance.url(f"/{MODEL}")) for each in envelopes}
    for envelope in envelopes:
        answer = await fetch(targets[envelope.name])
        if answer.status != 200 or envelope.read(answer) != [pictures.SIDE, pictures.SIDE]:
            raise MeasurementFailed(f"{envelope.name}: status {answer.status}, {answer.body!r}")
    turns = effort.rounds * max(1, round(effort.seconds / 2 / TURN_S))
    loads = await closed_loops(targets, rounds=turns, connections=CONNECTIONS, seconds=TURN_S)
    return rows(f"{len(image) / 1e3:.0f} KB", loads)


def rows(size: str, loads: Mapping[str, Sequence[Load]]) -> list[Row]:
    """Return a row per envelope, of which the first is what the others are compared with."""
    (first, raw), *others = loads.items()
    found = [Row(f"{size} as {first}", [each.rate for each in raw], "/s", None, {first: raw})]
    for name, own in others:
        target = BOUND if name.startswith(BOUNDED) else None
        found.append(compare(f"{size} as {name}", f"x {first}", {name: own, first: raw}, target))
    return found


FIGURE: Final = Figure((MODEL,), measure)
