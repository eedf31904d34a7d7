"""What is measured, one module per figure.

A figure names the applications that it needs and measures them in a running instance. They run in
the order of `FIGURES`: starts before anything runs, then the memory of idle replicas.
"""

from __future__ import annotations

from rayserve_app.bench.figures import (
    batching,
    frameworks,
    gateway,
    image_example,
    memory,
    neighbours,
    packed_stream,
    protocols,
    start,
    yolov3,
)
from rayserve_app.bench.figures.figure import Figure

FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        start.FIGURE,
        memory.FIGURE,
        image_example.FIGURE,
        protocols.FIGURE,
        gateway.FIGURE,
        batching.FIGURE,
        packed_stream.FIGURE,
        yolov3.FIGURE,
        frameworks.FIGURE,
        neighbours.FIGURE,
    )
}
