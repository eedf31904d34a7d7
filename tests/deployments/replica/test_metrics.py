"""From a recorder's totals to counters of a metrics library."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path

import pytest

from deployments.replica import metrics
from deployments.replica.metrics import MetricsExporter
from rayserve_app.metrics.recorder import STAGES, Recorder
from rayserve_app.metrics.totals import METRICS, samples
from rayserve_app.process.timing import Timing

PAGE = Path(__file__).parents[3] / "docs" / "operating.md"


class Counter:
    """A counter that adds up, and refuses what a metrics library refuses."""

    def __init__(self, name: str, description: str, tags: tuple[str, ...]) -> None:
        assert description
        self.tags = tags
        self.totals: dict[tuple[str, ...], float] = defaultdict(float)
        self.calls = 0

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0
        assert tuple(tags) == self.tags
        assert all(isinstance(tag, str) for tag in tags.values())
        self.totals[tuple(tags.values())] += value
        self.calls += 1


def create_exporter(recorder: Recorder) -> tuple[MetricsExporter, dict[str, Counter]]:
    counters: dict[str, Counter] = {}

    def create(name: str, description: str, tags: tuple[str, ...]) -> Counter:
        counters[name] = Counter(name, description, tags)
        return counters[name]

    return MetricsExporter(recorder, create), counters


def totals(recorder: Recorder) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    for name, tags, total in samples(recorder):
        found[name][tuple(tags.values())] = total
    return found


def test_every_sample_is_a_declared_metric_with_its_tags() -> None:
    recorder = Recorder()
    recorder.batch_closed["full"] += 1
    recorder.responses["clipper", 200] += 1
    recorder.defaults["deadline"] += 1
    recorder.cached_items["hit"] += 1
    found = list(samples(recorder))
    assert {name for name, _, _ in found} == set(METRICS)
    for name, tags, _ in found:
        assert tuple(tags) == METRICS[name][1]


def test_the_page_names_every_metric_as_ray_exports_it() -> None:
    """Ray exports a counter `x` as `ray_x_total`; the page's short forms are spelled out."""
    text = PAGE.read_text()
    for name in METRICS:
        stem, _, part = name.rpartition("_")
        if part in ("bucket", "sum", "count"):
            assert f"ray_{stem}" in text
            assert f"_{part}_total`" in text
        else:
            assert f"`ray_{name}_total`" in text


def test_buckets_are_cumulative() -> None:
    recorder = Recorder()
    for items in (1, 2, 3, 10, 5000):
        recorder.batch_items.observe(items)
    found = totals(recorder)
    buckets = {le: total for (le,), total in found["rayserve_batch_items_bucket"].items()}
    assert buckets == {
        "1": 1,
        "2": 2,
        "4": 3,
        "8": 3,
        "16": 4,
        "32": 4,
        "64": 4,
        "128": 4,
        "256": 4,
        "512": 4,
        "1024": 4,
        "+Inf": 5,
    }
    assert found["rayserve_batch_items_sum"] == {(): 5016}
    assert found["rayserve_batch_items_count"] == {(): 5}


def test_a_request_is_counted_in_the_stages_that_it_passed() -> None:
    recorder = Recorder()
    timing = Timing()
    timing.decode, timing.predict = 0.002, 0.25
    timing.record(recorder)
    found = totals(recorder)
    assert found["rayserve_stage_seconds_count"] == {
        (stage,): stage in ("decode", "predict") for stage in STAGES
    }
    assert found["rayserve_stage_seconds_sum"]["decode",] == 0.002
    assert found["rayserve_stage_seconds_bucket"]["predict", "0.1"] == 0
    assert found["rayserve_stage_seconds_bucket"]["predict", "0.3"] == 1
    assert found["rayserve_stage_seconds_bucket"]["queue", "+Inf"] == 0


def test_answers_are_told_by_protocol_and_status() -> None:
    recorder = Recorder()
    recorder.responses["clipper", 200] += 3
    recorder.responses["", 404] += 1
    assert totals(recorder)["rayserve_responses"] == {("clipper", "200"): 3, ("", "404"): 1}


def test_only_what_is_new_is_exported() -> None:
    recorder = Recorder()
    exporter, counters = create_exporter(recorder)
    assert set(counters) == set(METRICS)
    exporter.export()
    assert sum(counter.calls for counter in counters.values()) == 0

    recorder.responses["clipper", 200] += 2
    recorder.batch_items.observe(3)
    exporter.export()
    recorder.responses["clipper", 200] += 5
    recorder.responses["sagemaker", 500] += 1
    recorder.batch_items.observe(3)
    exporter.export()
    calls = sum(counter.calls for counter in counters.values())
    exporter.export()
    assert sum(counter.calls for counter in counters.values()) == calls

    assert counters["rayserve_responses"].totals == {
        ("clipper", "200"): 7,
        ("sagemaker", "500"): 1,
    }
    assert counters["rayserve_responses"].calls == 3
    assert counters["rayserve_batch_items_sum"].totals == {(): 6}
    assert counters["rayserve_batch_items_bucket"].totals["2",] == 0
    assert counters["rayserve_batch_items_bucket"].totals["4",] == 2


async def test_what_was_counted_is_exported_once_a_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "PERIOD_S", 0.01)
    recorder = Recorder()
    exporter, counters = create_exporter(recorder)
    running = asyncio.create_task(exporter.run())
    seen = counters["rayserve_default_outputs"].totals
    for total in (1, 2):
        recorder.defaults["deadline"] += 1
        async with asyncio.timeout(5):
            while seen["deadline",] != total:
                await asyncio.sleep(0.005)
    running.cancel()


async def test_an_exporter_outlives_what_its_counters_raise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics, "PERIOD_S", 0.01)
    recorder = Recorder()
    exporter, counters = create_exporter(recorder)
    failing, sound = counters["rayserve_dropped_requests"], counters["rayserve_default_outputs"]
    failures = [ConnectionError("gone"), ValueError("no such tag"), RuntimeError("still gone")]
    inc = failing.inc

    def fail_at_first(value: float, tags: dict[str, str]) -> None:
        if failures:
            raise failures.pop()
        inc(value, tags)

    monkeypatch.setattr(failing, "inc", fail_at_first)
    recorder.dropped_requests = 3
    recorder.defaults["deadline"] = 2
    exporter.export()
    assert sound.totals["deadline",] == 2  # what comes after the one that fails
    running = asyncio.create_task(exporter.run())
    async with asyncio.timeout(5):
        while failing.totals[()] != 3:
            await asyncio.sleep(0.005)
    assert not failures
    assert not running.done()
    running.cancel()
    assert [record.getMessage() for record in caplog.records] == ["Metrics could not be exported"]


async def test_an_exporter_outlives_what_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "PERIOD_S", 0.01)
    recorder = Recorder()
    exporter, counters = create_exporter(recorder)
    kept, recorder.batch_items = recorder.batch_items, None  # type: ignore[assignment]
    running = asyncio.create_task(exporter.run())
    await asyncio.sleep(0.05)
    recorder.batch_items = kept
    recorder.dropped_requests = 1
    async with asyncio.timeout(5):
        while counters["rayserve_dropped_requests"].totals[()] != 1:
            await asyncio.sleep(0.005)
    running.cancel()
