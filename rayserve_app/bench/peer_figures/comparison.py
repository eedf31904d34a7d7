"""What the figures share: servers that are started together, answers that must be alike, and
closed loops into all of them in turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any, Final, NamedTuple

import numpy as np

from rayserve_app.bench.answer import fetch
from rayserve_app.bench.figures.figure import MeasurementFailed, require_no_errors
from rayserve_app.bench.load import Load, Target, closed_loop
from rayserve_app.bench.peer_servers import PREDICT, Peer, PeerServer
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort, take_turns
from rayserve_app.bench.summary import rate_ratios, stages, summary

OURS: Final = "ours"
CONNECTIONS: Final = 16
WARM_UP_S: Final = 0.15
START_S: Final = 1.0
RESUME_S: Final = 0.1
"""Until all processes of a server wait for connections again, or the first gets all of them."""

RELATIVE, ABSOLUTE = 1e-3, 1e-5
"""How far two answers of floats may be apart: other batches are summed in another order."""


class Contender(NamedTuple):
    """One server in a comparison."""

    name: str
    requests: Target | Sequence[Target]
    server: PeerServer | None = None
    """None for ours, whose processes are not one server's."""


class Turn(NamedTuple):
    """One server's turn of one round."""

    load: Load
    cores: float
    """What the server itself computed, of one core; 0 where that was not measured."""


async def start(
    peers: Sequence[Peer], stack: ExitStack, body: bytes, content_type: str
) -> list[PeerServer]:
    """Start servers that run until the stack is closed."""
    servers = [stack.enter_context(PeerServer(peer)) for peer in peers]
    for server in servers:
        await server.wait_until_ready(body, content_type)
        # Until the other processes of the same server are ready too.
        for route in server.peer.routes:
            target = server.target(body, content_type, route)
            await closed_loop(target, connections=CONNECTIONS, seconds=START_S)
    return servers


async def check_answers(
    ours: Target,
    servers: Sequence[PeerServer],
    body: bytes,
    content_type: str,
    route: str = PREDICT,
    read: Callable[[bytes], Any] = json.loads,
) -> None:
    """Raise MeasurementFailed unless all servers answer what we answer."""
    answer = await fetch(ours)
    if answer.status != 200:
        raise MeasurementFailed(f"Ours answers {answer.status}: {answer.body[:200]!r}")
    expected = read(answer.body)
    for server in servers:
        found = await server.answer(body, content_type, route)
        if not are_alike(expected, found):
            raise MeasurementFailed(
                f"{server.peer.name} answers {str(found)[:200]}, we answer {str(expected)[:200]}"
            )


def are_alike(ours: Any, theirs: Any) -> bool:
    """Whether bytes are the same, or the numbers of nested lists, however they are nested."""
    if isinstance(ours, bytes):
        return ours == bytes(theirs)
    first, second = np.ravel(ours), np.ravel(theirs)
    return first.shape == second.shape and np.allclose(first, second, RELATIVE, ABSOLUTE)


async def closed_loops(
    case: str,
    contenders: Sequence[Contender],
    effort: Effort,
    seconds: float,
    connections: int = CONNECTIONS,
) -> dict[str, list[Turn]]:
    """Measure all in turn, the peers' processes suspended but in their own; return each one's turns
    by its name.

    Raises:
        MeasurementFailed: a request was not answered 200.
    """
    servers = [each.server for each in contenders if each.server]
    for server in servers:
        server.suspend()
    measured = await take_turns(
        effort.rounds,
        [partial(_closed_loop, each, seconds, connections) for each in contenders],
    )
    for server in servers:
        server.resume()
    require_no_errors(case, [turn.load for turns in measured for turn in turns])
    return {each.name: [*turns] for each, turns in zip(contenders, measured, strict=True)}


async def _closed_loop(contender: Contender, seconds: float, connections: int) -> Turn:
    requests, server = contender.requests, contender.server

    async def load(seconds: float) -> Load:
        return await closed_loop(requests, connections=connections, seconds=seconds)

    if server is None:
        await load(WARM_UP_S)
        return Turn(await load(seconds), 0.0)
    server.resume()
    await asyncio.sleep(RESUME_S)
    await load(WARM_UP_S)
    before = server.cpu_seconds()
    measured = await load(seconds)
    spent = server.cpu_seconds() - before
    server.suspend()
    return Turn(measured, spent / measured.seconds)


def rate_rows(figure: str, case: str, measured: Mapping[str, Sequence[Turn]]) -> list[Row]:
    """Return our rate against each peer's of the same rounds, from all turns by name."""
    ours = measured[OURS]
    return [
        Row.of_rounds(
            figure,
            f"{case}, {name}",
            rate_ratios(loads_of(ours), loads_of(turns)),
            "x",
            None,
            {**our_details(ours), **its_details(turns)},
            {OURS: loads_of(ours), name: loads_of(turns)},
        )
        for name, turns in measured.items()
        if name != OURS
    ]


def best_row(
    figure: str,
    case: str,
    ours: Sequence[Turn],
    others: Sequence[Sequence[Turn]],
    target: Bound | None,
) -> Row:
    """Return our rate against that of the best of the others in each round."""
    best = [max(turn.load.rate for turn in of_round) for of_round in zip(*others, strict=True)]
    ratios = [turn.load.rate / rate for turn, rate in zip(ours, best, strict=True)]
    details, loads = our_details(ours), {OURS: loads_of(ours)}
    return Row.of_rounds(figure, case, ratios, "x", target, details, loads)


def our_details(turns: Sequence[Turn]) -> dict[str, float]:
    loads = loads_of(turns)
    return {**summary(loads, "our_"), **stages(loads)}


def its_details(turns: Sequence[Turn]) -> dict[str, float]:
    cores = median(turn.cores for turn in turns)
    return {**summary(loads_of(turns), "its_"), "its_cores": cores}


def loads_of(turns: Sequence[Turn]) -> list[Load]:
    return [turn.load for turn in turns]
