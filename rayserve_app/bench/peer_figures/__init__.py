"""Our server beside LitServe, BentoML and MLServer: the same jobs, one module per figure.

Each runs the same model code, peers/jobs.py, through its own model API; how each is configured
stands in peer_subjects.py and peers/. The servers of a figure run at once, with the replicas'
niceness, and are measured in turn. Idle, none takes more than 0.01 of a core but LitServe with
batches, which polls its queue and takes 0.14 to 0.2: where cores are what is fought for, they are
suspended meanwhile. Before anything is timed, all must answer alike.

Where a row's unit is "x", it is how many times as fast ours is: our rate over theirs, or their time
over ours.
"""

from __future__ import annotations

from typing import Final

from rayserve_app.bench.figures.figure import Figure
from rayserve_app.bench.peer_figures import (
    batching,
    cnn,
    image_size,
    mixed_sizes,
    packed_stream,
    slow_neighbour,
)

PEER_FIGURES: Final[dict[str, Figure]] = {
    figure.name: figure
    for figure in (
        image_size.FIGURE,
        cnn.FIGURE,
        packed_stream.FIGURE,
        batching.FIGURE,
        mixed_sizes.FIGURE,
        slow_neighbour.FIGURE,
    )
}
