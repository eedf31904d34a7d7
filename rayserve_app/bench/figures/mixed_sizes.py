"""JPEGs of many sizes against as many pixels in one size, through a model that decodes them whole
and answers at once.

What a request costs besides its pixels is the same, for both have as many requests: what is lost is
lost in batches and on threads that wait for the largest. `Effort.seconds` is one closed-loop run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from rayserve_app.bench import pictures
from rayserve_app.bench.figures.figure import Figure, require_no_errors
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, closed_loop, warm_up
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort, interleave
from rayserve_app.bench.summary import rate_ratios, stages, summary

NAME: Final = "mixed-sizes"
MODEL: Final = "corner-colors"
CONNECTIONS: Final = 16
LEAST_RATIO: Final = 0.9


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    url = instance.url(f"/{MODEL}/invocations")
    mixed, same = (
        [Target.post(url, jpeg, "image/jpeg") for jpeg in jpegs]
        for jpegs in (mixed_jpegs(), jpegs_of_one_size())
    )
    await warm_up(mixed, same, connections=CONNECTIONS)
    pairs = await interleave(
        effort.rounds,
        partial(closed_loop, mixed, connections=CONNECTIONS, seconds=effort.seconds),
        partial(closed_loop, same, connections=CONNECTIONS, seconds=effort.seconds),
    )
    require_no_errors(NAME, [load for pair in pairs for load in pair])
    return [row(pairs)]


def mixed_jpegs() -> list[bytes]:
    return _jpegs(pictures.MIXED_SIDES)


def jpegs_of_one_size() -> list[bytes]:
    """Return as many, and as many pixels, as `mixed_jpegs` does."""
    return _jpegs([pictures.SIDE] * len(pictures.MIXED_SIDES))


def _jpegs(sides: Sequence[int]) -> list[bytes]:
    return [pictures.jpeg(side, seed) for seed, side in enumerate(sides)]


def row(pairs: Sequence[tuple[Load, Load]]) -> Row:
    """Return the row of what was measured in turn, with mixed sizes and with one."""
    mixed, same = zip(*pairs, strict=True)
    sides = pictures.MIXED_SIDES
    return Row.of_rounds(
        NAME,
        f"JPEGs of {min(sides)} to {max(sides)} px, c={CONNECTIONS}",
        rate_ratios(mixed, same),
        f"x all {pictures.SIDE} px",
        Bound("at least", LEAST_RATIO),
        {
            **summary(mixed, "mixed_"),
            **summary(same, "same_"),
            **stages(mixed, "mixed_"),
            **stages(same, "same_"),
        },
        {"mixed sizes": mixed, "one size": same},
    )


FIGURE: Final = Figure(NAME, (MODEL,), measure)
