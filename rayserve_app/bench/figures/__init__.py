"""What is measured, one module per figure.

A figure names the applications that it needs and measures them in a running instance. They run in
the order of `FIGURES`: starts and faults before anything else runs, then the memory of idle
replicas.
"""

from __future__ import annotations

from rayserve_app.bench.figures import (
    batching,
    cnn,
    event_loop,
    faults,
    frameworks,
    gateway,
    image_example,
    memory,
    mixed_sizes,
    neighbours,
    overload,
    packed_stream,
    protocols,
    slow_neighbour,
    start,
    yolov3,
)
from rayserve_app.bench.figures.figure import Figure

FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        start.FIGURE,
        faults.FIGURE,
        event_loop.FIGURE,
        memory.FIGURE,
        image_example.FIGURE,
        protocols.FIGURE,
        gateway.FIGURE,
        batching.FIGURE,
        mixed_sizes.FIGURE,
        packed_stream.FIGURE,
        slow_neighbour.FIGURE,
        cnn.FIGURE,
        yolov3.FIGURE,
        frameworks.FIGURE,
        neighbours.FIGURE,
        overload.FIGURE,
    )
}
