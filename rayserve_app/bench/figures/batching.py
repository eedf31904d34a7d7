"""Open loop into a model that takes 50 ms per batch of up to 32: our batcher beside `@serve.batch`.

A batcher that keeps batches small under load falls behind here, whatever its average cost. One run
takes `SECONDS_FACTOR * Effort.seconds`; the same requests at the same times go to both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from rayserve_app.bench.answer import fetch
from rayserve_app.bench.echo import echo_server
from rayserve_app.bench.figures.figure import Figure
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, open_loop
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort
from rayserve_app.bench.summary import stages, summary

NAME: Final = "batching"
OURS: Final = "slot_first"
STOCK: Final = "serve_batch, wait 50 ms"
"""The time of a batch: `@serve.batch` closes one whenever so much time has passed, whether or not
it can run, and falls behind with a shorter one."""

SECONDS_FACTOR: Final = 2
"""A queue needs some seconds to show whether it grows."""


class Goal(NamedTuple):
    """What we are to reach at one rate."""

    served_per_s: float
    p50_ms: float | None


RATES: Final[Mapping[int, Goal]] = {200: Goal(195, 90), 400: Goal(390, 95), 600: Goal(550, None)}
"""By requests per second that are offered."""


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    ours, stock = (request(instance, name) for name in ("slot-first", "serve-batch"))
    rows: list[Row] = []
    for rate in RATES:
        loads: dict[str, list[Load]] = {OURS: [], STOCK: []}
        for seed in range(effort.rounds):
            loads[OURS].append(await run(ours, rate, effort, seed))
            loads[STOCK].append(await run(stock, rate, effort, seed))
        rows += rows_at(NAME, rate, OURS, loads[OURS], RATES[rate])
        rows += rows_at(NAME, rate, STOCK, loads[STOCK])
    with echo_server() as echo:
        target = Target.post(f"{echo}/", *BODY)
        alone = await run(target, max(RATES), effort, seed=0)
    return [*rows, *rows_at(NAME, max(RATES), "load generator alone", [alone])]


BODY: Final = (b"0123456789", "application/octet-stream")


def request(instance: Instance, application: str) -> Target:
    """Return the request that all get."""
    return Target.post(instance.url(f"/{application}/invocations"), *BODY)


async def run(target: Target, rate: float, effort: Effort, seed: int) -> Load:
    """Offer a rate, at times that the seed says."""
    seconds = SECONDS_FACTOR * effort.seconds
    load = await open_loop(
        target, rate=rate, seconds=seconds, seed=seed, poisson=effort.has_random_arrivals
    )
    # Answered when what is left of the queue is done: the next turn begins with an empty one.
    await fetch(target)
    return load


def rows_at(
    figure: str, rate: int, who: str, loads: Sequence[Load], goal: Goal | None = None
) -> Iterator[Row]:
    """Return how many per second one server answered, and how fast."""
    case = f"{rate}/s, {who}"
    most_p50_ms = goal and goal.p50_ms
    details = {
        "errors": sum(load.errors for load in loads),
        "unanswered": sum(load.unanswered for load in loads),
    }
    yield Row.of_rounds(
        figure,
        case,
        [load.rate for load in loads],
        "/s",
        Bound("at least", goal.served_per_s) if goal else None,
        details,
        {who: loads},
    )
    yield Row.of_rounds(
        figure,
        f"{case}, p50",
        [load.percentile(50) * 1e3 for load in loads],
        "ms",
        Bound("at most", most_p50_ms) if most_p50_ms else None,
        {**summary(loads), **stages(loads)},
    )


FIGURE: Final = Figure(NAME, ("slot-first", "serve-batch"), measure)
