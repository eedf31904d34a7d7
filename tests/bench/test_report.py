"""The report: a table for people, and JSON."""

from __future__ import annotations

import json

import pytest

from rayserve_app.bench.figure import Bound, Effort, Row
from rayserve_app.bench.load import Load
from rayserve_app.bench.report import Report, number, summary


def report_on(*rows: Row) -> Report:
    figures = [("speed", row) for row in rows]
    return Report({"machine": "2 cores"}, "bench", Effort(5, 3.0), figures)


def load(latency_s: float, cpu_seconds: float = 0.1, timings: tuple[str, ...] = ()) -> Load:
    """Ten answers in two seconds."""
    return Load([latency_s] * 10, 0, 0, 2.0, cpu_seconds, timings, [0.001])


def test_the_table_has_medians_and_what_was_reached() -> None:
    report = report_on(
        Row("c=1", [1.01, 0.93, 0.97], "x", Bound("at least", 0.9), {}, {"a_ms": 12.34}),
        Row("c=16", [61.0], "MB", Bound("at most", 60), {"ours": [load(0.1)]}),
        Row("stock", [float("inf")], "ms"),
    )
    report.failures["yolov3"] = "E: why"
    assert report.to_text().splitlines() == [
        "$ bench",
        "machine: 2 cores",
        "rounds: 5, seconds: 3",
        "",
        "figure  case   measured            target        reached",
        "speed   c=1    0.97 x (0.93-1.01)  at least 0.9  yes",
        "    a_ms=12.3",
        "speed   c=16   61 MB               at most 60    no",
        "    ours: per_s=5  p50_ms=100  p90_ms=100  p99_ms=100  late_p99_ms=1  "
        "generator_cores=0.05",
        "speed   stock  none ms",
        "yolov3 failed: E: why",
    ]


def test_json_holds_the_same_as_the_table() -> None:
    row = Row("c=1", [0.9, 0.7], "x", Bound("at least", 0.8), {"ours": [load(0.1)]})
    document = json.loads(report_on(row, Row("c=2", [float("inf")], "ms")).to_json())
    assert (document["rounds"], document["seconds"]) == (5, 3.0)
    first, second = document["rows"]
    assert (first["figure"], first["measured"], first["rounds"]) == ("speed", 0.8, [0.9, 0.7])
    assert first["target"] == {"kind": "at least", "value": 0.8}
    assert (first["is_reached"], second["is_reached"]) == (True, None)
    assert (second["measured"], second["target"]) == (None, None)
    assert first["loads"]["ours"]["answers"] == 10


def test_a_summary_has_the_medians_of_the_rounds() -> None:
    timings = ("decode;dur=1, predict;dur=5", "decode;dur=2, encode;dur=3")
    rounds = [load(latency_s, timings=timings[:1]) for latency_s in (0.01, 0.02, 0.09)]
    assert summary([*rounds, load(0.03, timings=timings[1:])]) == {
        "per_s": 5.0,
        **dict.fromkeys(("p50_ms", "p90_ms", "p99_ms"), 25.0),
        "server_decode_ms": 1.0,
        "late_p99_ms": 1.0,
        "generator_cores": 0.05,
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.849, "0.85"), (189.94, "189.9"), (1234.5, "1234"), (0.0, "0"), (float("inf"), "none")],
)
def test_numbers_have_three_digits_or_more(value: float, text: str) -> None:
    assert number(value) == text


def test_a_load_generator_that_may_be_the_bottleneck_is_told() -> None:
    rows = [
        Row("c=1", [1.0], "x", None, {"ours": [load(0.1, cpu_seconds=1.5)]}),
        Row("c=16", [1.0], "x", None, {"ours": [load(0.1), load(0.1, cpu_seconds=1.7)]}),
    ]
    report, expected = report_on(*rows), "speed, c=16: the load generator took 0.85 of a core"
    assert report.warnings == json.loads(report.to_json())["warnings"] == [expected]
    assert f"Warning: {expected}" == report.to_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("bound", "measured", "expected"),
    [
        (Bound("at least", 0.5), 0.95, 1.9),
        (Bound("at most", 60), 120.0, 0.5),
        (Bound("at most", 60), float("inf"), 0.0),
        (Bound("at most", 60), 0.0, float("inf")),
        (Bound("at most", 0), 1.0, 0.0),
        (Bound("at most", 0), 0.0, float("inf")),
    ],
)
def test_a_margin_says_how_many_times_better_than_the_target(
    bound: Bound, measured: float, expected: float
) -> None:
    assert bound.margin(measured) == pytest.approx(expected)
    assert Row("", [measured], "", bound).is_reached == (expected >= 1)
