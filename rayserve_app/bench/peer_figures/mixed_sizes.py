"""JPEGs of many sizes, and as many pixels in one size, through a model that decodes them whole and
answers at once.

No peer has a batcher here: decoding is the user's code, and gains nothing from batches in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final

from rayserve_app.bench import pictures
from rayserve_app.bench.figures import mixed_sizes
from rayserve_app.bench.figures.figure import Figure
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Target
from rayserve_app.bench.peer_figures.comparison import (
    OURS,
    Contender,
    Turn,
    check_answers,
    closed_loops,
    its_details,
    loads_of,
    rate_rows,
    start,
)
from rayserve_app.bench.peer_subjects import DECODERS
from rayserve_app.bench.report import Row
from rayserve_app.bench.rounds import Effort
from rayserve_app.bench.summary import rate_ratios

NAME: Final = "peers-mixed-sizes"
SECONDS_FACTOR: Final = 1 / 3
MIXED: Final = "mixed"
SAME: Final = f"all {pictures.SIDE} px"


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    url = instance.url(f"/{mixed_sizes.MODEL}/invocations")
    jpegs = {MIXED: mixed_sizes.mixed_jpegs(), SAME: mixed_sizes.jpegs_of_one_size()}
    measured: dict[str, dict[str, list[Turn]]] = {}
    with ExitStack() as stack:
        servers = await start(DECODERS, stack, jpegs[SAME][0], "image/jpeg")
        for jpeg in jpegs[MIXED]:
            ours = Target.post(url, jpeg, "image/jpeg")
            await check_answers(ours, servers, jpeg, "image/jpeg")
        for kind, of_kind in jpegs.items():
            ours_all = [Target.post(url, jpeg, "image/jpeg") for jpeg in of_kind]
            contenders = [Contender(OURS, ours_all)]
            for server in servers:
                theirs = [server.target(jpeg, "image/jpeg") for jpeg in of_kind]
                contenders.append(Contender(server.peer.label(), theirs, server))
            seconds = SECONDS_FACTOR * effort.seconds
            measured[kind] = await closed_loops(f"{kind} sizes", contenders, effort, seconds)
    return mixed_rows(measured[MIXED], measured[SAME])


def mixed_rows(
    mixed: Mapping[str, Sequence[Turn]], same: Mapping[str, Sequence[Turn]]
) -> list[Row]:
    """Return our rate against each peer's with mixed sizes; and each one's own with mixed sizes
    against that with one size."""
    sides = pictures.MIXED_SIDES
    case = f"JPEGs of {min(sides)} to {max(sides)} px"
    rows = rate_rows(NAME, case, mixed)
    for name, turns in mixed.items():
        rows.append(
            Row.of_rounds(
                NAME,
                f"{case}, {name} alone",
                rate_ratios(loads_of(turns), loads_of(same[name])),
                f"x {SAME}",
                None,
                its_details(same[name]),
                {SAME: loads_of(same[name])},
            )
        )
    return rows


FIGURE: Final = Figure(NAME, (mixed_sizes.MODEL,), measure)
