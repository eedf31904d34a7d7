"""Open loop into a model of 50 ms per batch, through each one's batcher; Serve's own `@serve.batch`
too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Final

from rayserve_app.bench.figures import batching
from rayserve_app.bench.figures.figure import Figure
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target
from rayserve_app.bench.peer_figures.comparison import OURS, start
from rayserve_app.bench.peer_subjects import BATCHERS
from rayserve_app.bench.report import Row
from rayserve_app.bench.rounds import Effort
from rayserve_app.bench.summary import rate_ratios

NAME: Final = "peers-batching"
SECONDS_FACTOR: Final = 0.4
"""Of `Effort.seconds`, which the load itself doubles."""

WARM_UP: Final = Effort(rounds=1, seconds=0.5)


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    effort = effort._replace(seconds=SECONDS_FACTOR * effort.seconds)
    with ExitStack() as stack:
        servers = await start(BATCHERS, stack, *batching.BODY)
        targets = {
            OURS: batching.request(instance, "slot-first"),
            batching.STOCK: batching.request(instance, "serve-batch"),
            **{each.peer.label(): each.target(*batching.BODY) for each in servers},
        }
        for target in targets.values():
            # BentoML learns how long a batch takes from the first ones.
            await batching.run(target, min(batching.RATES), WARM_UP, seed=0)
        rows: list[Row] = []
        for rate in batching.RATES:
            rows += await _compare(rate, targets, effort)
    return rows


async def _compare(rate: int, targets: Mapping[str, Target], effort: Effort) -> Iterator[Row]:
    loads: dict[str, list[Load]] = {name: [] for name in targets}
    for seed in range(effort.rounds):
        for name, target in targets.items():
            loads[name].append(await batching.run(target, rate, effort, seed))
    return batching_rows(rate, loads)


def batching_rows(rate: int, loads: Mapping[str, Sequence[Load]]) -> Iterator[Row]:
    """Return how many per second each server answered and how fast, and
    how many times as many of the same rounds ours answered."""
    for name, of_one in loads.items():
        # No targets: those are for runs so long that their last batch hardly counts.
        yield from batching.rows_at(NAME, rate, name, of_one, None)
    for name, of_one in loads.items():
        if name != OURS:
            ratios = rate_ratios(loads[OURS], of_one)
            yield Row.of_rounds(NAME, f"{rate}/s, ours to {name}", ratios, "x", None, {})


FIGURE: Final = Figure(NAME, ("slot-first", "serve-batch"), measure)
