"""Our server beside LitServe, BentoML and MLServer: an image's size, a model of 50 ms per batch;
for the latter Serve's own `@serve.batch` too.

All run at once, with the replicas' niceness, and are measured in turn; idle, none takes more than
0.01 of a core but LitServe with batches, which polls its queue and takes 0.14. How each is
configured stands in peer_subjects.py and peers/.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Final, NamedTuple

from rayserve_app.bench import pictures
from rayserve_app.bench.answer import fetch
from rayserve_app.bench.figures import batching
from rayserve_app.bench.figures.figure import Figure, MeasurementFailed, require_no_errors
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, closed_loop
from rayserve_app.bench.peer_servers import Peer, PeerServer
from rayserve_app.bench.peer_subjects import BATCHERS, HANDLER, MODEL_APIS
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort, median_ratio, take_turns
from rayserve_app.bench.summary import stages, summary

SIZE: Final = "peers-image-size"
BATCHING: Final = "peers-batching"
OURS: Final = "ours"
CONNECTIONS: Final = 16
WARM_UP_S: Final = 0.5

WARM_UP: Final = Effort(rounds=1, seconds=0.5)


class Picture(NamedTuple):
    name: str
    data: bytes
    content_type: str
    least_ratio: float
    """Of our requests per second to the best peer's."""


class Turn(NamedTuple):
    """One server's turn of one round."""

    load: Load
    cores: float
    """What the server itself computed, of one core; 0 where that was not measured."""


async def measure_image_size(instance: Instance, effort: Effort) -> list[Row]:
    images = (
        Picture("10 KB PNG", pictures.png(pictures.SMALL_SIDE), "image/png", 3),
        Picture("130 KB JPEG", pictures.jpeg(pictures.SIDE), "image/jpeg", 2),
    )
    url = instance.url("/image-example/invocations")
    peers = (*MODEL_APIS, HANDLER)
    with ExitStack() as stack:
        servers = await _start(peers, stack, images[0].data, images[0].content_type)
        rows = []
        for image in images:
            ours = Target.post(url, image.data, image.content_type)
            rows += await _compare_sizes(image, ours, servers, effort)
    return rows


async def _compare_sizes(
    image: Picture, ours: Target, servers: Sequence[PeerServer], effort: Effort
) -> list[Row]:
    body = (image.data, image.content_type)
    expected = (await fetch(ours)).body
    for server in servers:
        size = await server.answer(*body)
        if f"[{size[0]},{size[1]}]".encode() != expected.replace(b" ", b""):
            raise MeasurementFailed(f"{server.peer.name} answers {size}, we answer {expected!r}")

    async def load(target: Target) -> Load:
        await closed_loop(target, connections=CONNECTIONS, seconds=WARM_UP_S)
        return await closed_loop(target, connections=CONNECTIONS, seconds=effort.seconds)

    async def turn(server: PeerServer) -> Turn:
        before = server.cpu_seconds()
        answered = await load(server.target(*body))
        spent = server.cpu_seconds() - before
        return Turn(answered, spent / (answered.seconds + WARM_UP_S))

    async def our_turn() -> Turn:
        return Turn(await load(ours), 0)

    all_turns: list[Callable[[], Awaitable[Turn]]] = [our_turn]
    all_turns += [partial(turn, server) for server in servers]
    turns = await take_turns(effort.rounds, all_turns)
    case = f"{image.name}, c={CONNECTIONS}"
    require_no_errors(case, [each.load for turns_of_one in turns for each in turns_of_one])
    labels = [server.peer.label() for server in servers]
    return list(size_rows(case, turns[0], dict(zip(labels, turns[1:], strict=True)), image))


def size_rows(
    case: str, ours: Sequence[Turn], peers: Mapping[str, Sequence[Turn]], image: Picture
) -> Iterator[Row]:
    """Compare our turns with the peers', of the same rounds; the last of them is HANDLER."""
    target = Bound("at least", image.least_ratio)
    rates = [each.load.rate for each in ours]
    *model_apis, handler = ([each.load.rate for each in turns] for turns in peers.values())
    best_api = [max(each) for each in zip(*model_apis, strict=True)]
    best = [max(each) for each in zip(best_api, handler, strict=True)]
    loads = _loads(ours)
    details = {**summary(loads, "our_"), **stages(loads)}
    for name, others in (("the best model API", best_api), ("the best of all", best)):
        ratio = median_ratio(zip(rates, others, strict=True))
        yield Row(SIZE, f"{case}, {name}", ratio, "x", target, details, {"ours": loads})
    for name, turns in peers.items():
        ratio = median_ratio(
            (rate, each.load.rate) for rate, each in zip(rates, turns, strict=True)
        )
        loads = _loads(turns)
        details = {**summary(loads, "its_"), "its_cores": median(each.cores for each in turns)}
        yield Row(SIZE, f"{case}, {name}", ratio, "x", None, details, {name: loads})


def _loads(turns: Sequence[Turn]) -> list[Load]:
    return [turn.load for turn in turns]


async def measure_batching(instance: Instance, effort: Effort) -> list[Row]:
    with ExitStack() as stack:
        servers = await _start(BATCHERS, stack, *batching.BODY)
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
            rows += await _compare_batchers(rate, targets, effort)
    return rows


async def _compare_batchers(
    rate: int, targets: Mapping[str, Target], effort: Effort
) -> Iterator[Row]:
    loads: dict[str, list[Load]] = {name: [] for name in targets}
    for seed in range(effort.rounds):
        for name, target in targets.items():
            loads[name].append(await batching.run(target, rate, effort, seed))
    return batching_rows(rate, loads)


def batching_rows(rate: int, loads: Mapping[str, Sequence[Load]]) -> Iterator[Row]:
    """Return how many per second each server answered and how fast; targets are ours."""
    for name, of_one in loads.items():
        goal = batching.RATES[rate] if name == OURS else None
        yield from batching.rows_at(BATCHING, rate, name, of_one, goal)


async def _start(
    peers: Sequence[Peer], stack: ExitStack, body: bytes, content_type: str
) -> list[PeerServer]:
    servers = [stack.enter_context(PeerServer(peer)) for peer in peers]
    for server in servers:
        await server.wait_until_ready(body, content_type)
        # Until the other processes of the same server are ready too.
        target = server.target(body, content_type)
        await closed_loop(target, connections=CONNECTIONS, seconds=2 * WARM_UP_S)
    return servers


PEER_FIGURES: Final = {
    SIZE: Figure(SIZE, ("image-example",), measure_image_size),
    BATCHING: Figure(BATCHING, ("slot-first", "serve-batch"), measure_batching),
}
