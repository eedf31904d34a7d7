"""A JPEG of 512x512 pixels through the bench's network in PyTorch, in batches of up to 8.

All have one batch on each core, as ours has: one batch on all cores was faster in none. BentoML's
workers share one socket, and which of them gets how many of the connections is chance.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Final

from rayserve_app.bench import pictures
from rayserve_app.bench.figures.figure import Figure
from rayserve_app.bench.figures.frameworks import CALLERS
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.networks import WEIGHTS
from rayserve_app.bench.peer_figures.comparison import (
    OURS,
    Contender,
    check_answers,
    closed_loops,
    rate_rows,
    start,
)
from rayserve_app.bench.peer_subjects import networks
from rayserve_app.bench.report import Row
from rayserve_app.bench.rounds import Effort
from rayserve_app.bench.subjects import TORCH

NAME: Final = "peers-cnn"
SECONDS_FACTOR: Final = 4 / 3
CONNECTIONS: Final = CALLERS * TORCH.batch_size


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    body = (pictures.jpeg(pictures.SIDE), "image/jpeg")
    case = f"512 px JPEG, {CONNECTIONS} callers"
    ours = TORCH.target(instance)
    with ExitStack() as stack:
        servers = await start(networks(_weights(instance)), stack, *body)
        await check_answers(ours, servers, *body)
        contenders = [
            Contender(OURS, ours),
            *(Contender(each.peer.label(), each.target(*body), each) for each in servers),
        ]
        seconds = SECONDS_FACTOR * effort.seconds
        turns = await closed_loops(case, contenders, effort, seconds, CONNECTIONS)
    return rate_rows(NAME, case, turns)


def _weights(instance: Instance) -> Path:
    """Return the file that our own model was loaded from."""
    (declared,) = (each for each in instance.applications if each["name"] == TORCH.application)
    return Path(declared["args"]["model"]["path"], WEIGHTS)


FIGURE: Final = Figure(NAME, (TORCH.application,), measure)
