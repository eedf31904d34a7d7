"""Open loop into a model that takes 50 ms per batch of up to 32: our batcher beside `@serve.batch`.

A batcher that keeps batches small under load falls behind here, whatever its average cost. One run
takes twice `Effort.seconds`; the same requests at the same times go to both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from rayserve_app.bench.figure import Bound, Effort, Figure, Row, at_least, at_most, take_turns
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, fetch, open_loop

OURS: Final = "slot_first"
STOCK: Final = "serve_batch, wait 50 ms"
SECONDS_FACTOR: Final = 2
"""A queue needs some seconds to show whether it grows."""

BODY: Final = (b"0123456789", "application/octet-stream")

GOALS: Final[Mapping[int, tuple[Bound, Bound | None]]] = {
    200: (at_least(195), at_most(90)),
    400: (at_least(390), at_most(95)),
    600: (at_least(550), None),
}
"""What we are to serve per second, and in how many milliseconds half of it, by what is offered."""


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    return [
        row
        for rate in GOALS
        for name, loads in (await offer(targets(instance), rate, effort)).items()
        for row in rows(rate, name, loads)
    ]


def targets(instance: Instance) -> dict[str, Target]:
    """Return the requests to our batcher and to Serve's."""
    names = {OURS: "slot-first", STOCK: "serve-batch"}
    return {key: instance.target(name, *BODY) for key, name in names.items()}


async def offer(
    targets: Mapping[str, Target], rate: float, effort: Effort
) -> dict[str, list[Load]]:
    """Offer a rate to all in turn, at the times of the round."""

    def run(target: Target) -> Callable[[int], Awaitable[Load]]:
        async def once(seed: int) -> Load:
            seconds = SECONDS_FACTOR * effort.seconds
            load = await open_loop(target, rate=rate, seconds=seconds, seed=seed)
            await fetch(target)  # answered when the queue is empty
            return load

        return once

    return await take_turns(effort.rounds, {name: run(each) for name, each in targets.items()})


def rows(rate: int, name: str, loads: Sequence[Load]) -> list[Row]:
    """Return how many per second one server answered, and how fast."""
    served, p50 = GOALS[rate] if name == OURS else (None, None)
    case, rates = f"{rate}/s, {name}", [load.rate for load in loads]
    median_ms = [load.percentile(50) * 1e3 for load in loads]
    lost = {"not_answered": sum(load.errors + load.unanswered for load in loads)}
    return [
        Row(case, rates, "/s", served, {name: loads}, lost),
        Row(f"{case}, p50", median_ms, "ms", p50),
    ]


FIGURE: Final = Figure(("slot-first", "serve-batch"), measure)
