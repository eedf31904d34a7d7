"""What the figures make of loads, and the targets that they hold them to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rayserve_app.bench import figures, peer_figures, pictures
from rayserve_app.bench.figure import Bound, MeasurementFailed, Row, require_no_errors
from rayserve_app.bench.figures import (
    batching,
    cnn,
    find_figures,
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
from rayserve_app.bench.load import Load
from rayserve_app.bench.models import HEADS_BYTES, corner_colors
from rayserve_app.cli import main

MEGABYTES = f"1.3 MB in, {HEADS_BYTES / 1e6:.1f} MB out"
TARGETS = {
    ("10 KB PNG, c=1", "x minimal"): Bound("at least", 0.8),
    ("10 KB PNG, c=16", "x minimal"): Bound("at least", 0.9),
    ("130 KB JPEG, c=1", "x minimal"): Bound("at least", 0.8),
    ("130 KB JPEG, c=16", "x minimal"): Bound("at least", 0.9),
    ("130 KB JPEG as base64 JSON, c=16", "x raw"): Bound("at least", 0.8),
    ("130 KB as base64 JSON, X", "x raw body"): Bound("at least", 0.7),
    ("gateway, c=1", "ms added"): Bound("at most", 1.2),
    ("gateway, c=16", "x direct"): Bound("at least", 0.45),
    ("200/s, slot_first", "/s"): Bound("at least", 195),
    ("200/s, slot_first, p50", "ms"): Bound("at most", 90),
    ("400/s, slot_first", "/s"): Bound("at least", 390),
    ("400/s, slot_first, p50", "ms"): Bound("at most", 95),
    ("600/s, slot_first", "/s"): Bound("at least", 550),
    (MEGABYTES, "x floor"): Bound("at most", 1.3),
    (f"{MEGABYTES}, peak memory", "x reply"): Bound("at most", 2.5),
    ("512 px JPEG, half of saturation, p99", "x full batch"): Bound("at most", 3),
    ("hasty, 5 x", "x capacity"): Bound("at least", 0.9),
    ("hasty, 5 x, p99 of the answered", "x deadline"): Bound("at most", 0.5),
    ("hasty, 5 x, p99 of the refusals", "ms"): Bound("at most", 50),
}


def load(rate: int = 100, latency_ms: float = 10, errors: int = 0) -> Load:
    """Return one second's load."""
    return Load([latency_ms / 1e3] * rate, errors, 0, 1.0, 0.1)


def rows() -> Iterator[Row]:
    """Return what the figures make of any loads."""
    loads = {name: [load()] for name in ("ours", "minimal", "base64 JSON")}
    for image in (pictures.PNG, pictures.JPEG):
        for connections in image_example.CONNECTIONS:
            yield from image_example.size_rows(image, connections, loads)
    names = ("raw body", "base64 JSON, X", "form")
    yield from protocols.rows("130 KB", {name: [load()] for name in names})
    for connections in (1, 16):
        ways = {"gateway": [load()], "direct": [load()]}
        yield gateway.row(f"gateway, c={connections}", ways, connections)
    for rate in batching.GOALS:
        for name in (batching.OURS, batching.STOCK):
            yield from batching.rows(rate, name, [load()])
    yield packed_stream.time_row({name: [load()] for name in ("served", "floor", "by hand")})
    yield packed_stream.memory_row(0, 1)
    yield cnn.half_row([load()], [Pace(100.0, 10.0)], 1.0)
    yield from overload.rows_of("hasty, 5 x", 1.5, [overload.Round(load(), load(), load())])


def test_the_figures_have_these_targets_and_no_others() -> None:
    assert {(row.case, row.unit): row.target for row in rows() if row.target} == TARGETS
    bounds = [frameworks.BOUND, cnn.OF_LOOP, mixed_sizes.BOUND, slow_neighbour.BOUND]
    assert [bound.value for bound in bounds] == [0.85, 0.95, 0.9, 1.5]
    assert peer_figures.OF_BEST == {
        pictures.PNG: ("at least", 3),
        pictures.JPEG: ("at least", 2),
    }


def test_every_job_has_a_figure() -> None:
    assert find_figures().keys() == {
        *("batching", "cnn", "event-loop", "faults", "frameworks", "gateway", "image-example"),
        *("mixed-sizes", "overload", "packed-stream", "protocols", "slow-neighbour"),
    }


def test_a_later_figure_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is found by its name, run, and reported against its target."""
    (tmp_path / "answer_to_all.py").write_text(
        "from rayserve_app.bench.figure import Figure, Row, at_least\n"
        "async def measure(instance, effort):\n"
        "    return [Row('everything', [42.0] * effort.rounds, 'x', at_least(40))]\n"
        "FIGURE = Figure((), measure, starts_itself=True)\n"
    )
    monkeypatch.setattr(figures, "__path__", [*figures.__path__, str(tmp_path)])
    assert main(["bench", "answer-to-all", "--rounds", "3"]) == 0
    assert "everything  42 x (42-42)  at least 40  yes" in capsys.readouterr().out


def test_an_error_fails_the_figure() -> None:
    require_no_errors({"ours": [load()]})
    with pytest.raises(MeasurementFailed, match="ours: 3 requests were not answered 200"):
        require_no_errors({"ours": [load(errors=1), load(errors=2)]})
    lost = Load([0.1], 0, 1, 1.0, 0.1)
    with pytest.raises(MeasurementFailed, match="1 requests"):
        slow_neighbour.row("case", [slow_neighbour.Round(load(), load(), lost, 1.0)], None)


def test_an_image_is_compared_with_the_minimal_ingress_and_base64_with_the_image() -> None:
    loads = {
        "ours": [load(90), load(80)],
        "minimal": [load(100), load(100)],
        "base64 JSON": [load(72), load(72)],
    }
    raw, packed = image_example.size_rows("130 KB JPEG", 16, loads)
    assert (raw.measured, raw.is_reached) == (pytest.approx(0.85), False)
    assert (packed.measured, packed.is_reached) == (pytest.approx(0.85), True)


def test_protocols_are_compared_with_the_raw_body() -> None:
    loads = {"raw body": [load(100), load(200)], "form": [load(50), load(100)]}
    raw, form = protocols.rows("1 KB", loads)
    assert (raw.measured, raw.unit) == (150, "/s")
    assert (form.case, form.measured, form.unit) == ("1 KB as form", 0.5, "x raw body")


def test_the_gateway_is_reported_by_what_it_adds_and_by_what_it_keeps() -> None:
    loads = {"gateway": [load(40, 2), load(60, 3)], "direct": [load(100, 1), load(100, 1)]}
    assert gateway.row("one", loads, 1).measured == pytest.approx(1.5)
    many = gateway.row("many", loads, gateway.CONNECTIONS)
    assert many.measured == pytest.approx(0.5)
    assert many.details["added_ms"] == pytest.approx(1.5)


def test_a_batcher_is_judged_by_what_it_serves_and_how_fast() -> None:
    loads = [load(199, 91), load(196, 95), load(190, 89, errors=2)]
    served, p50 = batching.rows(200, batching.OURS, loads)
    assert (served.measured, served.is_reached, served.details["not_answered"]) == (196, True, 2)
    assert (p50.measured, p50.is_reached) == (pytest.approx(91), False)


def test_the_packed_stream_is_compared_with_the_floor_of_its_round() -> None:
    loads = {
        "served": [load(1, 50), load(1, 60), load(1, 80)],
        "floor": [load(1, 40)] * 3,
        "by hand": [load(1, 30)] * 3,
    }
    assert packed_stream.time_row(loads).measured == pytest.approx(1.5)
    memory = packed_stream.memory_row(100_000_000, 100_000_000 + 2 * HEADS_BYTES)
    assert (memory.measured, memory.details["idle_mb"]) == (2, 100)


def test_the_packed_stream_is_as_large_as_its_row_says() -> None:
    assert packed_stream.CASE.startswith(f"{len(packed_stream.stream()) / 1e6:.1f} MB in, ")


def test_a_peak_of_memory_is_the_kernels() -> None:
    held = bytearray(b"1") * 100_000_000
    assert packed_stream.peak_bytes(Path("/proc/self")) > len(held)


def test_mixed_pictures_have_as_many_pixels_as_those_of_one_size() -> None:
    sides = pictures.MIXED_SIDES
    assert sum(side**2 for side in sides) == len(sides) * pictures.SIDE**2
    assert len(set(sides)) > 4


def test_a_colour_is_that_of_the_first_pixel() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[1, 0, 0] = 1, 2, 3
    assert corner_colors(images) == [[0, 0, 0], [1, 2, 3]]


def test_a_neighbour_is_judged_by_what_it_does_to_the_99th_percentile() -> None:
    times = [(2, 3), (3, 3), (1, 4)]
    rounds = [
        slow_neighbour.Round(load(100, beside), load(100, alone), load(18), 0.9)
        for alone, beside in times
    ]
    row = slow_neighbour.row("case", rounds, slow_neighbour.BOUND)
    assert row.measured == pytest.approx(1.5)
    assert row.details == {"busy_cores": 0.9}


def test_latency_at_half_of_saturation_is_counted_in_batches() -> None:
    loads = [load(10, latency_ms) for latency_ms in (300, 400, 500)]
    row = cnn.half_row(loads, [Pace(40, 200)] * 3, 36.0)
    assert (row.measured, row.is_reached) == (2.5, True)


def test_a_framework_is_reported_against_its_loop() -> None:
    loads = [load(served, 200) for served in (18, 30, 20)]
    paces = [Pace(per_s, 8e3 / per_s) for per_s in (20.0, 20.0, 25.0)]
    row = frameworks.row("a model", loads, paces, frameworks.BOUND)
    assert (row.measured, row.is_reached, row.details) == (0.9, True, {"loop_per_s": 20})


def test_overload_is_counted_in_capacities_and_deadlines() -> None:
    overloaded = Load([0.6] * 90, 12, 1, 1.0, 0.1, refusals=[0.01] * 10)
    round_ = overload.Round(load(80), overloaded, load(120))
    answered, late, refusals = overload.rows_of("case", 1.5, [round_])
    assert (answered.measured, answered.details["late"]) == (0.9, 3)
    assert (late.measured, refusals.measured) == (pytest.approx(0.4), pytest.approx(10))


def test_no_framework_is_imported_before_something_is_measured() -> None:
    script = "import sys, rayserve_app.bench.runner; print({'torch', 'ray'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
