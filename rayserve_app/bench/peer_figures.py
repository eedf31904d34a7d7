"""Our server beside LitServe, BentoML and MLServer: the same jobs.

Each runs the same model code, peers/jobs.py, through its own model API; peer_servers.py says how
each is configured. The servers of a figure run at once, with the replicas' niceness, and are
measured in turn. Idle, none takes more than 0.01 of a core but LitServe with batches, which polls
its queue and takes 0.14 to 0.2: where cores are what is fought for, they are suspended meanwhile.
Before anything is timed, all must answer alike.

Where a row's unit is "x", it is how many times as fast ours is: our rate over theirs, or their time
over ours.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from rayserve_app.bench import pictures
from rayserve_app.bench.applications import TWICE
from rayserve_app.bench.envelopes import base64_json, raw_body
from rayserve_app.bench.figure import (
    Bound,
    Effort,
    Figure,
    MeasurementFailed,
    Row,
    at_least,
    compare,
    p99,
    require_no_errors,
    take_turns,
)
from rayserve_app.bench.figures import (
    batching,
    cnn,
    frameworks,
    image_example,
    mixed_sizes,
    packed_stream,
    slow_neighbour,
)
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.large_answers import LargeAnswerClient, turns
from rayserve_app.bench.load import Load, Requests, Target, closed_loop, fetch, warm_up
from rayserve_app.bench.models import HEADS_BYTES
from rayserve_app.bench.networks import WEIGHTS, WEIGHTS_VARIABLE
from rayserve_app.bench.peer_servers import BASE64, FAST, JOBS, PREDICT, SLOW, PeerServer, running

OURS: Final = "ours"
CROWD: Final = image_example.CROWD
WARM_UP_S: Final = 0.15
START_S: Final = 1.0
RESUME_S: Final = 0.1
"""Until all processes of a server wait for connections again, or the first gets all of them."""

RELATIVE, ABSOLUTE = 1e-3, 1e-5
"""How far two answers of floats may be apart: other batches are summed in another order."""

OF_BEST: Final = {pictures.PNG: at_least(3), pictures.JPEG: at_least(2)}
"""Our requests per second to the best peer's, the body itself, from CROWD connections."""

SCALED: Final = TWICE.format(image_example.MODEL)
"""Ours has two replicas, as LitServe and BentoML have a worker per core; MLServer is fastest in one
process."""

JPEG: Final = (pictures.jpeg(pictures.SIDE), "image/jpeg")


@asynccontextmanager
async def started(
    job: str, body: bytes, content_type: str, variables: Mapping[str, str] = {}
) -> AsyncIterator[dict[str, PeerServer]]:
    """Run the servers of a job, by their names and versions, with variables of its own."""
    with ExitStack() as stack:
        peers = [peer._replace(variables=variables) for peer in JOBS[job]]
        servers = {peer.label(): stack.enter_context(running(peer)) for peer in peers}
        for server in servers.values():
            await server.wait_until_ready(body, content_type)
            # Until the other processes of the same server are ready too.
            for route in server.peer.routes:
                target = server.target(body, content_type, route)
                await closed_loop(target, connections=CROWD, seconds=START_S)
        yield servers


async def check_answers(
    ours: Target,
    servers: Mapping[str, PeerServer],
    body: bytes,
    content_type: str,
    route: str = PREDICT,
    read: Callable[[bytes], Any] = json.loads,
) -> None:
    """Raise MeasurementFailed unless all servers answer what we answer."""
    expected = read((await fetch(ours)).body)
    for name, server in servers.items():
        answer = await fetch(server.target(body, content_type, route))
        found = server.peer.routes[route].read(answer.body)
        if not are_alike(expected, found):
            raise MeasurementFailed(f"{name} answers {found!r:.200}, we answer {expected!r:.200}")


def are_alike(ours: Any, theirs: Any) -> bool:
    """Whether bytes are the same, or the numbers of nested lists, however they are nested."""
    if isinstance(ours, bytes):
        return ours == bytes(theirs)
    first, second = np.ravel(ours), np.ravel(theirs)
    return first.shape == second.shape and np.allclose(first, second, RELATIVE, ABSOLUTE)


async def closed_loops(
    ours: Requests,
    servers: Mapping[str, PeerServer],
    ask: Callable[[PeerServer], Requests],
    effort: Effort,
    seconds: float,
    connections: int = CROWD,
) -> dict[str, list[Load]]:
    """Measure all in turn, the peers' processes suspended but in their own; all requests must be
    answered 200."""

    async def loop(requests: Requests) -> Load:
        await closed_loop(requests, connections=connections, seconds=WARM_UP_S)
        return await closed_loop(requests, connections=connections, seconds=seconds)

    def turn(server: PeerServer, requests: Requests) -> Callable[[int], Awaitable[Load]]:
        async def run(_: int) -> Load:
            server.resume()
            await asyncio.sleep(RESUME_S)
            load = await loop(requests)
            server.suspend()
            return load

        return run

    for server in servers.values():
        server.suspend()
    measures: dict[str, Callable[[int], Awaitable[Load]]] = {OURS: lambda _: loop(ours)}
    measures |= {name: turn(server, ask(server)) for name, server in servers.items()}
    loads = await take_turns(effort.rounds, measures)
    for server in servers.values():
        server.resume()
    require_no_errors(loads)
    return loads


def rate_rows(case: str, loads: Mapping[str, Sequence[Load]]) -> list[Row]:
    """Return our rate against each other's of the same rounds."""
    return [
        compare(f"{case}, {name}", "x", {OURS: loads[OURS], name: of_one})
        for name, of_one in loads.items()
        if name != OURS
    ]


def best_row(case: str, loads: Mapping[str, Sequence[Load]], target: Bound | None) -> Row:
    """Return our rate against that of the best of the others in each round."""
    others = [of_one for name, of_one in loads.items() if name != OURS]
    best = [max(load.rate for load in of_round) for of_round in zip(*others, strict=True)]
    ratios = [load.rate / rate for load, rate in zip(loads[OURS], best, strict=True)]
    return Row(f"{case}, the best model API", ratios, "x", target, {OURS: loads[OURS]})


def time_rows(
    case: str, loads: Mapping[str, Sequence[Load]], by: Callable[[Load], float]
) -> list[Row]:
    """Return each other's time against ours of the same rounds."""
    return [
        compare(f"{case}, {name}", "x", {name: of_one, OURS: loads[OURS]}, by=by)
        for name, of_one in loads.items()
        if name != OURS
    ]


async def image_size(instance: Instance, effort: Effort) -> list[Row]:
    """The size of a PNG and of a JPEG, as the body itself and in base64 JSON. MLServer's model API
    takes base64 alone, in both rows."""
    url = instance.url(f"/{SCALED}")
    rows: list[Row] = []
    async with started("sizes", *JPEG) as servers:
        for image, body in pictures.both().items():
            ours = {PREDICT: raw_body(*body).target(url), BASE64: base64_json(body[0]).target(url)}
            for route, target in ours.items():
                await check_answers(target, servers, *body, route)
                ask = partial(PeerServer.target, body=body[0], content_type=body[1], route=route)
                for connections in image_example.CONNECTIONS:
                    case = image if route == PREDICT else f"{image} as {route} JSON"
                    case = f"{case}, c={connections}"
                    seconds = effort.seconds / 4
                    loads = await closed_loops(target, servers, ask, effort, seconds, connections)
                    bound = OF_BEST[image] if (route, connections) == (PREDICT, CROWD) else None
                    rows += [best_row(case, loads, bound), *rate_rows(case, loads)]
    return rows


async def network(instance: Instance, effort: Effort) -> list[Row]:
    """A JPEG through the bench's network in PyTorch, in batches of up to 8. All have one batch on
    each core, as ours has: one batch on all cores was faster in none. BentoML's workers share one
    socket, and which of them gets how many of the connections is chance."""
    (declared,) = (each for each in instance.applications if each["name"] == cnn.MODEL)
    weights = {WEIGHTS_VARIABLE: str(Path(declared["args"]["model"]["path"], WEIGHTS))}
    ours = frameworks.target(instance, cnn.MODEL)
    async with started("network", *JPEG, weights) as servers:
        await check_answers(ours, servers, *JPEG)
        seconds = effort.seconds * 4 / 3
        loads = await closed_loops(
            ours, servers, lambda each: each.target(*JPEG), effort, seconds, cnn.CALLERS
        )
    return rate_rows(cnn.CASE, loads)


async def mixed(instance: Instance, effort: Effort) -> list[Row]:
    """JPEGs of many sizes through a model that decodes them whole and answers at once. No peer has
    a batcher here: decoding is the user's code, and gains nothing from batches in it."""
    jpegs = mixed_sizes.jpegs("mixed sizes")
    ours = mixed_sizes.requests(instance, "mixed sizes")
    async with started("decoding", *JPEG) as servers:
        for target, jpeg in zip(ours, jpegs, strict=True):
            await check_answers(target, servers, jpeg, "image/jpeg")

        def ask(server: PeerServer) -> Requests:
            return [server.target(jpeg, "image/jpeg") for jpeg in jpegs]

        loads = await closed_loops(ours, servers, ask, effort, effort.seconds / 3)
    return rate_rows(mixed_sizes.CASE, loads)


async def large_answers(instance: Instance, effort: Effort) -> list[Row]:
    """Ten JPEGs as one packed stream in, an .npy of 54.8 MB out, one request after another.
    MLServer's REST API answers JSON, so that its .npy comes as 73 MB of base64, which nobody
    decodes here. The ten are decoded on all cores in each server."""
    body = (packed_stream.stream(), "application/octet-stream")
    ours = packed_stream.target(instance.url(f"/{packed_stream.SERVED}/invocations"))
    async with started("large answers", *body) as servers:
        await check_answers(ours, servers, *body, read=bytes)
        targets = {OURS: ours, **{name: each.target(*body) for name, each in servers.items()}}
        with ExitStack() as stack:
            measures: dict[str, Callable[[int], Awaitable[Load]]] = {}
            for name, target in targets.items():
                client = stack.enter_context(closing(LargeAnswerClient(target, HEADS_BYTES)))
                measures[name] = turns(client.send, 0.4 * effort.seconds)
            loads = await take_turns(effort.rounds, measures)
    return time_rows(packed_stream.CASE, loads, packed_stream.median_s)


async def batches(instance: Instance, effort: Effort) -> list[Row]:
    """Open loop into a model of 50 ms per batch, through each one's batcher; Serve's own
    `@serve.batch` too. Without targets: those are for runs so long that their last batch hardly
    counts."""
    effort = effort._replace(seconds=0.4 * effort.seconds)
    async with started("batches", *batching.BODY) as servers:
        own = batching.targets(instance)
        targets = {OURS: own[batching.OURS], batching.STOCK: own[batching.STOCK]}
        targets |= {name: each.target(*batching.BODY) for name, each in servers.items()}
        # BentoML learns how long a batch takes from the first ones.
        await batching.offer(targets, min(batching.GOALS), Effort(1, 0.5))
        rows: list[Row] = []
        for rate in batching.GOALS:
            loads = await batching.offer(targets, rate, effort)
            for name, of_one in loads.items():
                rows += batching.rows(rate, name, of_one)
            rows += rate_rows(f"{rate}/s, ours to", loads)
    return rows


async def neighbours(instance: Instance, effort: Effort) -> list[Row]:
    """A fast model beside a slow one that is busy, in one server: what the fast one's callers
    notice. Each model has a process of its own: in LitServe a LitAPI, in BentoML a service that the
    first one calls, in MLServer an inference pool. A server that loses a request cannot be
    measured."""
    effort = effort._replace(seconds=effort.seconds / 3)
    pairs = {OURS: slow_neighbour.targets(instance)}
    async with started("neighbours", *JPEG) as servers:
        for route, target in zip((FAST, SLOW), pairs[OURS], strict=True):
            await check_answers(target, servers, *JPEG, route)
        for name, server in servers.items():
            pairs[name] = (server.target(*JPEG, FAST), server.target(*JPEG, SLOW))
        loads: dict[str, list[Load]] = {name: [] for name in pairs}
        for pair in pairs.values():
            await warm_up(*pair, connections=1)
        for seed in range(effort.rounds):
            for name, pair in pairs.items():
                loads[name].append((await slow_neighbour.run(*pair, effort, seed)).beside)
    require_no_errors(loads)
    return time_rows(slow_neighbour.BESIDE, loads, p99)


PEER_FIGURES: Final[dict[str, Figure]] = {
    "peers-image-size": Figure((SCALED,), image_size),
    "peers-cnn": Figure((cnn.MODEL,), network),
    "peers-packed-stream": Figure((packed_stream.SERVED,), large_answers),
    "peers-batching": Figure(("slot-first", "serve-batch"), batches),
    "peers-mixed-sizes": Figure((mixed_sizes.MODEL,), mixed),
    "peers-slow-neighbour": Figure((slow_neighbour.FAST, slow_neighbour.SLOW), neighbours),
}
