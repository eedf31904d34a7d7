"""`Server-Timing` as the examples of the W3C's Server Timing write it, and as ours does."""

from __future__ import annotations

import pytest

from rayserve_app.bench import server_timing
from rayserve_app.bench.server_timing import Metric
from rayserve_app.process.timing import Timing


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("miss, db;dur=53, app;dur=47.2", [("miss", 0, ""), ("db", 53, ""), ("app", 47.2, "")]),
        ("customView, dc;desc=atl", [("customView", 0, ""), ("dc", 0, "atl")]),
        ('cache;desc="Cache Read";dur=23.2', [("cache", 23.2, "Cache Read")]),
        ("total ; dur = 123.4 ", [("total", 123.4, "")]),
        (r'a;desc="x, y;dur=9 \"z\"";DUR=1,b', [("a", 1, 'x, y;dur=9 "z"'), ("b", 0, "")]),
        ("a;later=1;dur=2", [("a", 2, "")]),
        ("", []),
    ],
)
def test_metrics_are_read(value: str, expected: list[tuple[str, float, str]]) -> None:
    assert list(server_timing.parse(value)) == [Metric(*each) for each in expected]


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ('queue;dur=0.1, predict;dur=50.1;desc="8 items", encode;dur=0.2', 8),
        ('predict;dur=50.1;desc="1 item"', 1),
        ("predict;dur=50.1", 0),
        ('predict;desc="many items"', 0),
        ('decode;dur=50.1;desc="8 items"', 0),
        ("", 0),
    ],
)
def test_the_batchs_size_is_the_description_of_predict(value: str, items: int) -> None:
    assert server_timing.batch_items(value) == items


def test_a_batch_is_told_by_as_many_answers_as_it_has_items() -> None:
    values = ['predict;desc="8 items"'] * 16 + ['predict;desc="1 item"'] * 3 + ["predict"] * 5
    assert server_timing.count_batches(values) == {8: 2, 1: 3}
    assert server_timing.count_batches(values, share=0.5) == {8: 4, 1: 6}


def test_stages_are_medians_over_the_answers() -> None:
    values = [f"decode;dur={duration}, predict;dur=9" for duration in (1, 2, 30)]
    assert server_timing.median_stages([*values, "encode;dur=4"]) == {
        "decode": 2.0,
        "predict": 9.0,
        "encode": 4.0,
    }


@pytest.mark.parametrize(("items", "description"), [(0, ""), (1, "1 item"), (32, "32 items")])
def test_what_a_server_writes_is_read(items: int, description: str) -> None:
    timing = Timing()
    timing.decode, timing.predict, timing.batch_items = 0.0015, 0.05, items
    metrics = {metric.name: metric for metric in server_timing.parse(timing.header())}
    assert list(metrics) == ["queue", "decode", "batch_wait", "predict", "encode"]
    assert metrics["decode"] == ("decode", 1.5, "")
    assert metrics["predict"] == ("predict", 50.0, description)
    assert server_timing.batch_items(timing.header()) == items
