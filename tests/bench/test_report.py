"""The report: a table for people, and JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rayserve_app.bench.load import Load
from rayserve_app.bench.report import Bound, Report, Row, number
from rayserve_app.bench.saturation import Saturation
from rayserve_app.bench.usage import ProcessUsage, Usage

EIGHT = 'decode;dur=1.5, predict;dur=50;desc="8 items"'
ONE = 'decode;dur=2.5, predict;dur=50;desc="1 item"'


@pytest.fixture
def report() -> Report:
    rows = [
        Row("speed", "c=1", 0.849, "x", Bound("at least", 0.8), {"a_ms": 12.34, "b_ms": 1234.5}),
        Row("memory", "idle", 61.0, "MB", Bound("at most", 60)),
        Row("speed", "stock", float("inf"), "ms"),
    ]
    return Report({"machine": "2 cores"}, "bench", 5, 3.0, rows, {"yolov3": "E: why"})


def test_table_says_what_was_reached(report: Report) -> None:
    assert report.to_text().splitlines() == [
        "$ bench",
        "machine: 2 cores",
        "rounds: 5, seconds: 3",
        "",
        "figure  case   measured  target        reached",
        "speed   c=1    0.85 x    at least 0.8  yes",
        "    a_ms=12.3  b_ms=1234",
        "memory  idle   61 MB     at most 60    no",
        "speed   stock  none ms",
        "yolov3 failed: E: why",
    ]


def test_json_holds_the_same_as_the_table(report: Report) -> None:
    document = json.loads(report.to_json())
    assert document["machine"] == {"machine": "2 cores"}
    assert (document["rounds"], document["seconds"]) == (5, 3.0)
    assert document["failures"] == {"yolov3": "E: why"}
    first, second, third = document["rows"]
    assert first["target"] == {"kind": "at least", "value": 0.8}
    assert first["details"] == {"a_ms": 12.34, "b_ms": 1234.5}
    assert [row["is_reached"] for row in document["rows"]] == [True, False, None]
    assert (second["unit"], third["measured"], third["target"]) == ("MB", None, None)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.849, "0.85"), (189.94, "189.9"), (1234.5, "1234"), (0.0, "0"), (float("inf"), "none")],
)
def test_numbers_have_three_digits_or_more(value: float, text: str) -> None:
    assert number(value) == text


def test_the_least_and_the_most_of_the_rounds_stand_beside_their_median() -> None:
    row = Row.of_rounds("speed", "c=1", [1.01, 0.93, 0.97], "x", Bound("at least", 0.9), {})
    once = Row.of_rounds("speed", "c=16", [0.9], "x", None, {})
    assert report_on(row, once).to_text().splitlines()[-2:] == [
        "speed   c=1   0.97 x (0.93-1.01)  at least 0.9  yes",
        "speed   c=16  0.90 x",
    ]
    assert [document_of(row)[name] for name in ("measured", "least", "most")] == [0.97, 0.93, 1.01]
    assert document_of(once).keys().isdisjoint({"least", "most"})


def report_on(*rows: Row, usage: dict[str, Usage] | None = None) -> Report:
    return Report({}, "bench", 5, 3.0, rows, {}, usage or {})


def load(latency_s: float, *, cpu_seconds: float = 0.1, timings: tuple[str, ...] = ()) -> Load:
    """Ten answers in two seconds."""
    return Load([latency_s] * 10, 0, 0, 2.0, cpu_seconds, timings, [0.001])


def document_of(row: Row) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(report_on(row).to_json())["rows"][0]
    return document


def test_json_has_the_medians_of_a_rows_loads() -> None:
    rounds = [load(latency_s, timings=(EIGHT, ONE)) for latency_s in (0.01, 0.02, 0.09)]
    loads = document_of(Row("d", "200/s", 1.0, "x", loads={"ours": rounds}))["loads"]
    # Of each round's ten answers, half are of batches of eight: 5 / 8 of one, which is one.
    assert loads["ours"] == {
        "answers": 30,
        "errors": 0,
        "unanswered": 0,
        "per_s": 5.0,
        "p50_ms": 20.0,
        "p90_ms": 20.0,
        "p99_ms": 20.0,
        "stages_ms": {"decode": 2.0, "predict": 50.0},
        "batches": {"1": 15, "8": 3},
        "generator_cores": 0.05,
        "late_p99_ms": 1.0,
    }


def test_table_has_the_sizes_of_batches() -> None:
    five = EIGHT.replace("8", "5")
    rounds = [load(0.01, timings=timings) for timings in ((EIGHT, ONE), (EIGHT, ONE), (five,))]
    alone = [load(0.01, timings=(ONE,))]
    row = Row("d", "200/s", 1.0, "x", None, {"a_ms": 1.5}, {"ours": rounds, "alone": alone})
    assert report_on(row).to_text().splitlines()[-3:] == [
        "d       200/s  1 x",
        "    a_ms=1.50",
        "    batches of ours, by items: 10x1  4x5-8",
    ]


def test_json_has_the_steps_of_a_search() -> None:
    found = Saturation(100.0, {120.0: load(3.0), 100.0: load(0.1)})
    saturation = document_of(Row("b", "CNN", 1.0, "x", saturation=found))["saturation"]
    assert saturation["per_s"] == 100.0
    assert [(each["offered_per_s"], each["p99_ms"]) for each in saturation["steps"]] == [
        (100.0, 100.0),
        (120.0, 3000.0),
    ]


def test_a_load_generator_that_may_be_the_bottleneck_is_told() -> None:
    rows = [
        Row("a", "c=1", 1.0, "x", None, {}, {"ours": [load(0.1, cpu_seconds=1.5)]}),
        Row("a", "c=16", 1.0, "x", None, {}, {"ours": [load(0.1), load(0.1, cpu_seconds=1.7)]}),
        Row("a", "c=64", 1.0, "x", None, {"generator_cores": 0.9}),
    ]
    report = report_on(*rows)
    expected = [
        "a, c=16: the load generator took 0.85 of a core",
        "a, c=64: the load generator took 0.90 of a core",
    ]
    assert report.warnings == json.loads(report.to_json())["warnings"] == expected
    assert [f"Warning: {each}" for each in expected] == report.to_text().splitlines()[-2:]


def test_the_load_of_others_is_told_of_the_whole_run() -> None:
    report = report_on(usage={"a": Usage(10.0, [], 1.0), "b": Usage(30.0, [], 9.0)})
    assert "other load: 0.25 cores, outside the benchmark" in report.to_text().splitlines()
    assert json.loads(report.to_json())["foreign_cores"] == 0.25
    assert "other load" not in report_on().to_text()
    assert json.loads(report_on().to_json())["foreign_cores"] is None


def test_what_figures_took_stands_below_the_table() -> None:
    processes = [ProcessUsage(f"p{number}", 1, 10.0 - number, 100.0, 1.0) for number in range(7)]
    processes.append(ProcessUsage("Ray worker", 3, 0.5, 210.0, 0.0))
    report = report_on(usage={"size": Usage(12.0, processes, 1.2)})
    assert report.to_text().splitlines()[-9:] == [
        "processes during              CPU s   peak MB  above start",
        "size                          12.0 s",
        "                  p0          10.0    100      1",
        "                  p1          9.0     100      1",
        "                  p2          8.0     100      1",
        "                  p3          7.0     100      1",
        "                  p4          6.0     100      1",
        "                  others (5)  9.5     410      2",
        "                  outside     1.2",
    ]
    told = json.loads(report.to_json())["usage"]["size"]
    assert (told["seconds"], told["foreign_cpu_seconds"]) == (12.0, 1.2)
    assert len(told["processes"]) == 8
    assert told["processes"][7] == {
        "label": "Ray worker",
        "processes": 3,
        "cpu_seconds": 0.5,
        "peak_mb": 210.0,
        "above_start_mb": 0.0,
    }
