"""The longest step of a replica's event loop, in processor time of the loop's own thread.

While a step runs, nothing else does: no other request, no health check. Each case is one request
to a model in a process of its own, by kind; the rows are the longest of their kind. No Serve runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rayserve_app.bench.event_loop import requests
from rayserve_app.bench.event_loop.large import Request
from rayserve_app.bench.event_loop.models import probed_models
from rayserve_app.bench.figures.figure import Figure
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort

NAME: Final = "event-loop"
CONNECTIONS: Final = 4

KINDS: Final = {
    "large bodies": requests.BODIES,
    "large answers": requests.ANSWERS,
    "faults and documents": requests.OTHERS,
    "dense bodies and answers": requests.DENSE,
    "failing models": requests.FAILURES,
}


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    return await asyncio.to_thread(lambda: list(_rows(effort)))


def _rows(effort: Effort) -> Iterator[Row]:
    with probed_models() as models:
        replica = requests.Replica(models, models.port)
        for kind, cases in KINDS.items():
            chosen = list(cases.items())[:: 1 if effort.rounds > 2 else 8]
            yield _row(replica, kind, {name: [make()] for name, make in chosen})
        mixes = {f"mix {seed}": requests.mixed(seed) for seed in range(effort.rounds)}
        yield _row(replica, f"all kinds, c={CONNECTIONS}", mixes, CONNECTIONS)


def _row(
    replica: requests.Replica,
    kind: str,
    cases: Mapping[str, Sequence[Request]],
    connections: int = 1,
) -> Row:
    longest = max(
        replica.longest(*each, connections=connections).seconds for each in cases.values()
    )
    bound = Bound("at most", requests.MOST_S * 1e3)
    return Row(NAME, f"{kind}, longest step", longest * 1e3, "ms", bound, {"cases": len(cases)})


FIGURE: Final = Figure(NAME, (), measure, starts_itself=True)
