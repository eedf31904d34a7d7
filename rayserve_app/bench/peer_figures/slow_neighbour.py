"""A fast model beside a slow one that is busy, in one server: what the fast one's callers notice.

Each model has a process of its own: in LitServe a LitAPI, in BentoML a service that the first one
calls, in MLServer an inference pool. BentoML lost some of these calls when they came without a
pause, `ServerDisconnectedError`: `slow_errors` counts them here. A server that loses a request to
the fast model cannot be measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from rayserve_app.bench import pictures
from rayserve_app.bench.figures import slow_neighbour
from rayserve_app.bench.figures.figure import Figure, require_no_errors
from rayserve_app.bench.figures.slow_neighbour import FAST_PER_S, SLOW_PER_S, Round
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Target, warm_up
from rayserve_app.bench.peer_figures.comparison import OURS, check_answers, start
from rayserve_app.bench.peer_subjects import FAST, NEIGHBOURS, SLOW
from rayserve_app.bench.report import Row
from rayserve_app.bench.rounds import Effort

NAME: Final = "peers-slow-neighbour"
SECONDS_FACTOR: Final = 1 / 3
"""Of `Effort.seconds`, which the load itself triples."""


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    effort = effort._replace(seconds=SECONDS_FACTOR * effort.seconds)
    body = (pictures.jpeg(pictures.SIDE), "image/jpeg")
    fast, slow = (
        Target.post(instance.url(f"/{name}/invocations"), *body)
        for name in (slow_neighbour.FAST, slow_neighbour.SLOW)
    )
    with ExitStack() as stack:
        servers = await start(NEIGHBOURS, stack, *body)
        await check_answers(fast, servers, *body, FAST)
        await check_answers(slow, servers, *body, SLOW)
        pairs = {OURS: (fast, slow)}
        for server in servers:
            theirs = (server.target(*body, FAST), server.target(*body, SLOW))
            pairs[server.peer.label()] = theirs
        for pair in pairs.values():
            await warm_up(*pair, connections=1)
        rounds: dict[str, list[Round]] = {name: [] for name in pairs}
        for seed in range(effort.rounds):
            for name, pair in pairs.items():
                rounds[name].append(await slow_neighbour.run(*pair, effort, seed))
    return neighbour_rows(rounds)


def neighbour_rows(rounds: Mapping[str, Sequence[Round]]) -> list[Row]:
    """Return for each server by name what the slow model adds to the fast one's 99th percentile;
    and each peer's 99th percentile beside the slow model against ours of the same rounds."""
    case = f"{FAST_PER_S:.0f}/s beside {SLOW_PER_S:.0f}/s, p99"
    rows: list[Row] = []
    for name, of_one in rounds.items():
        require_no_errors(name, [load for each in of_one for load in (each.alone, each.beside)])
        row = slow_neighbour.row(of_one)
        errors = sum(each.slow.errors + each.slow.unanswered for each in of_one)
        details = {**row.details, "slow_errors": errors}
        rows.append(
            replace(row, figure=NAME, case=f"{case}, {name} alone", target=None, details=details)
        )
    ours = rounds[OURS]
    for name, of_one in rounds.items():
        if name != OURS:
            ratios = [
                its.beside.percentile(99) / our.beside.percentile(99)
                for its, our in zip(of_one, ours, strict=True)
            ]
            rows.append(Row.of_rounds(NAME, f"{case}, {name}", ratios, "x", None, {}))
    return rows


FIGURE: Final = Figure(NAME, (slow_neighbour.FAST, slow_neighbour.SLOW), measure)
