"""JPEGs of many sizes against as many pixels in one size, through a model that decodes them whole
and answers at once.

What a request costs besides its pixels is the same, for both have as many requests: what is lost is
lost in batches and on threads that wait for the largest. A closed loop takes `Effort.seconds`.
"""

from __future__ import annotations

from typing import Final

from rayserve_app.bench import pictures
from rayserve_app.bench.figure import Effort, Figure, Row, at_least, closed_loops, compare
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Target

MODEL: Final = "corner-colors"
CONNECTIONS: Final = 16
SIDES: Final = {
    "mixed sizes": pictures.MIXED_SIDES,
    "one size": (pictures.SIDE,) * len(pictures.MIXED_SIDES),
}
CASE: Final = f"JPEGs of {min(pictures.MIXED_SIDES)} to {max(pictures.MIXED_SIDES)} px"
BOUND: Final = at_least(0.9)


def jpegs(kind: str) -> list[bytes]:
    return [pictures.jpeg(side, seed) for seed, side in enumerate(SIDES[kind])]


def requests(instance: Instance, kind: str) -> list[Target]:
    return [instance.target(MODEL, jpeg, "image/jpeg") for jpeg in jpegs(kind)]


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    targets = {kind: requests(instance, kind) for kind in SIDES}
    loads = await closed_loops(
        targets, rounds=effort.rounds, connections=CONNECTIONS, seconds=effort.seconds
    )
    return [compare(f"{CASE}, c={CONNECTIONS}", f"x all {pictures.SIDE} px", loads, BOUND)]


FIGURE: Final = Figure((MODEL,), measure)
