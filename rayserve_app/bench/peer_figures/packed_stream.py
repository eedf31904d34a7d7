"""Ten JPEGs as one packed stream in, an .npy of 54.8 MB out, one request after another.

MLServer's REST API answers JSON, so that its .npy comes as 73 MB of base64, which nobody decodes
here. The ten are decoded on all cores in each server; a turn is as many requests as begin in
`SECONDS_FACTOR * Effort.seconds`, and its median counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from time import perf_counter
from typing import Final

from rayserve_app.bench.figures.figure import Figure
from rayserve_app.bench.figures.packed_stream import MODEL, ask, ten_jpegs
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.large_answers import LargeAnswerClient
from rayserve_app.bench.load import Target
from rayserve_app.bench.models import HEADS_BYTES
from rayserve_app.bench.peer_figures.comparison import OURS, check_answers, start
from rayserve_app.bench.peer_subjects import LARGE_ANSWERS
from rayserve_app.bench.report import Row
from rayserve_app.bench.rounds import Effort, take_turns
from rayserve_app.codecs import packed_jpeg

NAME: Final = "peers-packed-stream"
SECONDS_FACTOR: Final = 0.4
BUFFER_BYTES: Final = 2 * HEADS_BYTES
"""Base64 takes 4/3 as many."""


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    body = (packed_jpeg.encode(ten_jpegs()), "application/octet-stream")
    url = instance.url(f"/{MODEL}/invocations")
    ours = Target.post(url, *body, accept="application/x-npy")
    case = f"{len(body[0]) / 1e6:.1f} MB in, {HEADS_BYTES / 1e6:.1f} MB out"
    with ExitStack() as stack:
        servers = await start(LARGE_ANSWERS, stack, *body)
        await check_answers(ours, servers, *body, read=bytes)
        targets = {OURS: ours, **{each.peer.label(): each.target(*body) for each in servers}}
        clients = {
            name: stack.enter_context(LargeAnswerClient(target, BUFFER_BYTES))
            for name, target in targets.items()
        }
        seconds = SECONDS_FACTOR * effort.seconds
        turns = await take_turns(
            effort.rounds,
            [partial(asyncio.to_thread, _turn, each, seconds) for each in clients.values()],
        )
    return time_rows(case, dict(zip(clients, turns, strict=True)))


def _turn(client: LargeAnswerClient, seconds: float) -> float:
    """Return the median time of a request, in seconds."""
    ask(client)
    times: list[float] = []
    stop_at = perf_counter() + seconds
    while not times or perf_counter() < stop_at:
        times.append(ask(client).seconds)
    return median(times)


def time_rows(case: str, measured: Mapping[str, Sequence[float]]) -> list[Row]:
    """Return each peer's time against ours of the same rounds, from seconds by name."""
    ours = measured[OURS]
    return [
        Row.of_rounds(
            NAME,
            f"{case}, {name}",
            [time / our for time, our in zip(times, ours, strict=True)],
            "x",
            None,
            {"our_ms": median(ours) * 1e3, "its_ms": median(times) * 1e3},
        )
        for name, times in measured.items()
        if name != OURS
    ]


FIGURE: Final = Figure(NAME, (MODEL,), measure)
