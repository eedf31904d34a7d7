"""The size of a 10 KB PNG and of a 130 KB JPEG, as the body itself and in base64 JSON.

MLServer's model API takes base64 alone, in both rows; its `custom_handler` takes the body itself.
Ours has two replicas, as LitServe and BentoML have a worker per core; MLServer is fastest in one
process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple

from rayserve_app.bench import pictures
from rayserve_app.bench.applications import TWICE
from rayserve_app.bench.envelopes import base64_json, raw_body
from rayserve_app.bench.figures.figure import Figure
from rayserve_app.bench.figures.image_example import CONNECTIONS, CROWD, JPEG, MODEL, PNG
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Target
from rayserve_app.bench.peer_figures.comparison import (
    OURS,
    Contender,
    Turn,
    best_row,
    check_answers,
    closed_loops,
    rate_rows,
    start,
)
from rayserve_app.bench.peer_servers import PREDICT, PeerServer
from rayserve_app.bench.peer_subjects import BASE64, HANDLER, MODEL_APIS
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort

NAME: Final = "peers-image-size"
SCALED: Final = TWICE.format(MODEL)
SECONDS_FACTOR: Final = 0.25
LEAST_RATIO: Final[Mapping[str, float]] = {PNG: 3, JPEG: 2}
"""Of our requests per second to the best peer's, the body itself, from CROWD connections."""


class Form(NamedTuple):
    """An image in one form."""

    image: str
    route: str
    data: bytes
    content_type: str
    ours: Target

    @property
    def case(self) -> str:
        return self.image if self.route == PREDICT else f"{self.image} as {self.route}"


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    rows: list[Row] = []
    with ExitStack() as stack:
        forms = _forms(instance.url(f"/{SCALED}"))
        first = forms[0]
        peers = (*MODEL_APIS, HANDLER)
        servers = await start(peers, stack, first.data, first.content_type)
        for form in forms:
            able = [server for server in servers if form.route in server.peer.routes]
            await check_answers(form.ours, able, form.data, form.content_type, form.route)
            for connections in CONNECTIONS:
                rows += await _compare(form, able, connections, effort)
    return rows


def _forms(url: str) -> list[Form]:
    images = (
        (PNG, pictures.png(pictures.SMALL_SIDE), "image/png"),
        (JPEG, pictures.jpeg(pictures.SIDE), "image/jpeg"),
    )
    return [
        Form(name, route, data, content_type, envelope.target(url))
        for name, data, content_type in images
        for route, envelope in (
            (PREDICT, raw_body(data, content_type)),
            (BASE64, base64_json(data)),
        )
    ]


async def _compare(
    form: Form, servers: Sequence[PeerServer], connections: int, effort: Effort
) -> list[Row]:
    case = f"{form.case}, c={connections}"
    contenders = [Contender(OURS, form.ours)]
    for server in servers:
        theirs = server.target(form.data, form.content_type, form.route)
        contenders.append(Contender(server.peer.label(), theirs, server))
    seconds = SECONDS_FACTOR * effort.seconds
    turns = await closed_loops(case, contenders, effort, seconds, connections)
    target = target_of(form.image, form.route, connections)
    return size_rows(case, turns, target, handler=HANDLER.label())


def target_of(image: str, route: str, connections: int) -> Bound | None:
    """Return what our rate is to be of the best model API's, if anything."""
    if route != PREDICT or connections != CROWD:
        return None
    return Bound("at least", LEAST_RATIO[image])


def size_rows(
    case: str, measured: Mapping[str, Sequence[Turn]], target: Bound | None, handler: str
) -> list[Row]:
    """Compare our turns with the best peer's and with each one's, of the same rounds.

    Args:
        measured: all turns by name.
        handler: the name of the one that is no model API.
    """
    ours = measured[OURS]
    others = {name: turns for name, turns in measured.items() if name != OURS}
    apis = [turns for name, turns in others.items() if name != handler]
    rows = [best_row(NAME, f"{case}, the best model API", ours, apis, target)]
    if handler in others:
        everything = [*others.values()]
        rows.append(best_row(NAME, f"{case}, the best of all", ours, everything, None))
    return [*rows, *rate_rows(NAME, case, measured)]


FIGURE: Final = Figure(NAME, (SCALED,), measure)
