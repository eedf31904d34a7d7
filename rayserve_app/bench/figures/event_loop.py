"""The longest step of a replica's event loop, in processor time of the loop's own thread.

While a step runs, nothing else does: no other request, no health check. Each case is one request
to a model in a process of its own, by kind; the rows are the longest of their kind. No Serve runs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Final

from rayserve_app.bench.event_loop.models import ProbedModels, probed_models
from rayserve_app.bench.event_loop.probe import MOST_S, longest_step
from rayserve_app.bench.event_loop.requests import KINDS, Make, Request
from rayserve_app.bench.figure import QUICK, Effort, Figure, Row, at_most
from rayserve_app.bench.instance import Instance

CONNECTIONS: Final = 4
MOST_AT_ONCE: Final = 16
EIGHTH: Final = 8
"""Of the cases, what a quick run tries."""


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    return await asyncio.to_thread(_measure, effort)


def _measure(effort: Effort) -> list[Row]:
    rows = []
    step = 1 if effort.rounds > QUICK.rounds else EIGHTH
    with probed_models() as models:
        for kind, cases in KINDS.items():
            chosen = {name: [make()] for name, make in [*cases.items()][::step]}
            rows.append(_row(models, kind, chosen))
        several = [make for cases in KINDS.values() for make in cases.values()][::step]
        mixes = {f"mix {seed}": _mixed(several, seed) for seed in range(effort.rounds)}
        rows.append(_row(models, f"all kinds, c={CONNECTIONS}", mixes, CONNECTIONS))
    return rows


def _mixed(several: Sequence[Make], seed: int) -> list[Request]:
    """Return some of all kinds, others for each seed."""
    chosen = random.Random(seed).sample(several, min(MOST_AT_ONCE, len(several)))
    return [make() for make in chosen]


def _row(
    models: ProbedModels, kind: str, cases: Mapping[str, Sequence[Request]], connections: int = 1
) -> Row:
    steps = [
        longest_step(models.ask, models.port, requests, connections=connections)
        for requests in cases.values()
    ]
    longest = max(steps).seconds * 1e3
    bound = at_most(MOST_S * 1e3)
    return Row(f"{kind}, longest step", [longest], "ms", bound, {}, {"cases": len(cases)})


FIGURE: Final = Figure((), measure, starts_itself=True)
