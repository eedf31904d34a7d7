"""What we are to reach, in one table, and the rows that hold it."""

from __future__ import annotations

from collections.abc import Iterator

from rayserve_app.bench.figures import (
    batching,
    cnn,
    frameworks,
    gateway,
    image_example,
    mixed_sizes,
    overload,
    packed_stream,
    protocols,
    slow_neighbour,
)
from rayserve_app.bench.framework_loop import Pace
from rayserve_app.bench.large_answers import LargeAnswer
from rayserve_app.bench.load import Answer, Load
from rayserve_app.bench.peer_figures import image_size
from rayserve_app.bench.peer_figures.comparison import OURS, Turn
from rayserve_app.bench.peer_servers import PREDICT
from rayserve_app.bench.peer_subjects import BASE64
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.saturation import Saturation

TARGETS = {
    ("image-example", "10 KB PNG, c=1", "x minimal"): Bound("at least", 0.8),
    ("image-example", "10 KB PNG, c=16", "x minimal"): Bound("at least", 0.9),
    ("image-example", "130 KB JPEG, c=1", "x minimal"): Bound("at least", 0.8),
    ("image-example", "130 KB JPEG, c=16", "x minimal"): Bound("at least", 0.9),
    ("image-example", "130 KB JPEG as base64 JSON, c=16", "x raw"): Bound("at least", 0.8),
    ("protocols", "130 KB as base64 JSON", "x raw"): Bound("at least", 0.7),
    ("cnn", "32 callers", "x loop"): Bound("at least", 0.95),
    ("cnn", "half of saturation, p99", "x full batch"): Bound("at most", 3),
    ("packed-stream", "54.8 MB", "x floor"): Bound("at most", 1.3),
    ("packed-stream", "54.8 MB, peak memory", "x reply"): Bound("at most", 2.5),
    ("batching", "200/s, ours", "/s"): Bound("at least", 195),
    ("batching", "200/s, ours, p50", "ms"): Bound("at most", 90),
    ("batching", "400/s, ours", "/s"): Bound("at least", 390),
    ("batching", "400/s, ours, p50", "ms"): Bound("at most", 95),
    ("batching", "600/s, ours", "/s"): Bound("at least", 550),
    ("mixed-sizes", "JPEGs of 128 to 1024 px, c=16", "x all 512 px"): Bound("at least", 0.9),
    ("slow-neighbour", "image-example at 100/s, p99", "x alone"): Bound("at most", 1.5),
    ("overload", "hasty, 5 x", "x capacity"): Bound("at least", 0.9),
    ("overload", "hasty, 5 x, p99 of the answered", "x deadline"): Bound("at most", 0.5),
    ("overload", "hasty, 5 x, p99 of the refusals", "ms"): Bound("at most", 50),
    ("peers-image-size", "10 KB PNG, c=16, the best model API", "x"): Bound("at least", 3),
    ("peers-image-size", "130 KB JPEG, c=16, the best model API", "x"): Bound("at least", 2),
    ("gateway", "c=1", "ms added"): Bound("at most", 1.2),
    ("gateway", "c=16", "x direct"): Bound("at least", 0.45),
}

LOAD = Load([0.01] * 100, 0, 0, 1.0, 0.1)
TURNS = [Turn(LOAD, 1.0)]
PACE = Pace(100.0, 10.0)


def rows() -> Iterator[Row]:
    """Return what the figures make of any loads."""
    for image in (image_example.PNG, image_example.JPEG):
        for connections in image_example.CONNECTIONS:
            yield from image_example.size_rows(image, connections, [[LOAD]] * 3)
    yield from protocols.rows("130 KB", ["raw", "base64 JSON", "form"], [[LOAD]] * 3)
    bound = Bound("at least", cnn.LEAST_RATIO)
    yield frameworks.row("cnn", "32 callers", [(LOAD, PACE)], bound)
    half = "half of saturation"
    yield cnn.half_row(half, [(LOAD, PACE)], Saturation(1.0, {}), has_bounds=True)
    answer = LargeAnswer(Answer(200, b"", 0), 0.1, 0.1)
    turn = packed_stream.Round([answer], [answer], [packed_stream.FloorTime(0.1, 0.1)])
    yield packed_stream.time_row("54.8 MB", [turn])
    yield packed_stream.memory_row("54.8 MB", 0, 1)
    for rate, goal in batching.RATES.items():
        yield from batching.rows_at(batching.NAME, rate, "ours", [LOAD], goal)
    yield mixed_sizes.row([(LOAD, LOAD)])
    yield slow_neighbour.row([slow_neighbour.Round(LOAD, LOAD, LOAD, 0.5, 1.0)])
    yield from overload.rows_of("hasty, 5 x", overload.HASTY, [overload.Round(LOAD, LOAD, LOAD)])
    for image in (image_example.PNG, image_example.JPEG):
        for route in (PREDICT, BASE64):
            for connections in image_example.CONNECTIONS:
                target = image_size.target_of(image, route, connections)
                measured = {OURS: TURNS, "theirs": TURNS, "handler": TURNS}
                case = f"{image}, c={connections}"
                yield from image_size.size_rows(case, measured, target, "handler")
    for connections in (1, gateway.CONNECTIONS):
        yield gateway.row(f"c={connections}", [(LOAD, LOAD)], connections)


def test_the_figures_have_these_targets_and_no_others() -> None:
    targets = {(row.figure, row.case, row.unit): row.target for row in rows() if row.target}
    assert targets == TARGETS
