"""Open loop into a model that takes 50 ms per batch: our batcher beside `@serve.batch`.

A batcher that keeps batches small under load falls behind here, whatever its average cost. One run
takes `SECONDS_FACTOR * Effort.seconds`; the same requests at the same times go to both.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Final

from rayserve_app.bench.echo import echo_server
from rayserve_app.bench.figures.figure import Figure, require_no_errors
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, open_loop
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort

NAME: Final = "batching"
RATE: Final = 200.0
LEAST_SERVED: Final = 190.0
MOST_P50_MS: Final = 95.0
SECONDS_FACTOR: Final = 3
"""A queue needs some seconds to show whether it grows."""


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    slot_first, serve_batch = (
        _target(instance.url(f"/{name}/invocations")) for name in ("slot-first", "serve-batch")
    )
    ours, stock = [], []
    for seed in range(effort.rounds):
        ours.append(await _run(slot_first, effort, seed))
        stock.append(await _run(serve_batch, effort, seed))
    require_no_errors("slot_first", ours)
    with echo_server() as echo:
        alone = await _run(_target(f"{echo}/"), effort, seed=0)
    served, p50 = Bound("at least", LEAST_SERVED), Bound("at most", MOST_P50_MS)
    return [
        *_rows("slot_first", ours, served, p50),
        *_rows("serve_batch, wait 10 ms", stock, None, None),
        *_rows("load generator alone", [alone], None, None),
    ]


def _target(url: str) -> Target:
    return Target.post(url, b"0123456789", "application/octet-stream")


async def _run(target: Target, effort: Effort, seed: int) -> Load:
    seconds = SECONDS_FACTOR * effort.seconds
    return await open_loop(target, rate=RATE, seconds=seconds, seed=seed)


def _rows(case: str, loads: list[Load], served: Bound | None, p50: Bound | None) -> Iterator[Row]:
    p50_ms, p99_ms = (
        median(load.percentile(percent) for load in loads) * 1e3 for percent in (50, 99)
    )
    details = {
        "offered_per_s": RATE,
        "errors": sum(load.errors for load in loads),
        "unanswered": sum(load.unanswered for load in loads),
    }
    yield Row(NAME, case, median(load.rate for load in loads), "/s", served, details)
    yield Row(NAME, f"{case}, p50", p50_ms, "ms", p50, {"p99_ms": p99_ms})


FIGURE: Final = Figure(NAME, ("slot-first", "serve-batch"), measure)
