"""A recorder's counters by the names under which monitoring knows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

from rayserve_app.metrics.recorder import Histogram, Recorder

Sample = tuple[str, Mapping[str, str], float]
"""A metric's name, its tags, and its total."""

METRICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "rayserve_stage_seconds_bucket": ("Requests by seconds spent in a stage", ("stage", "le")),
    "rayserve_stage_seconds_sum": ("Seconds that requests spent in a stage", ("stage",)),
    "rayserve_stage_seconds_count": ("Requests that passed a stage", ("stage",)),
    "rayserve_batch_items_bucket": ("Batches by items", ("le",)),
    "rayserve_batch_items_sum": ("Items in batches", ()),
    "rayserve_batch_items_count": ("Batches", ()),
    "rayserve_batches_closed": ("Batches by the reason why they closed", ("reason",)),
    "rayserve_responses": ("HTTP answers", ("protocol", "status")),
    "rayserve_default_outputs": ("Answers with the default output", ("reason",)),
    "rayserve_dropped_requests": ("Requests given up: no batch would have ended in time", ()),
    "rayserve_cached_items": ("Items by what the cache had for them", ("outcome",)),
}
"""Every metric with its description and its tags.

Ray exports a counter `x` as `ray_x_total`, and as `ray_x`, which is deprecated.
"""


def samples(recorder: Recorder) -> Iterator[Sample]:
    """Yield the recorder's totals, histograms in Prometheus' form: cumulative `le` buckets."""
    for stage, histogram in recorder.stage_seconds.items():
        yield from _histogram("rayserve_stage_seconds", histogram, {"stage": stage})
    yield from _histogram("rayserve_batch_items", recorder.batch_items, {})
    yield "rayserve_dropped_requests", {}, recorder.dropped_requests
    for outcome, total in list(recorder.cached_items.items()):
        yield "rayserve_cached_items", {"outcome": outcome}, total
    for reason, total in list(recorder.batch_closed.items()):
        yield "rayserve_batches_closed", {"reason": reason}, total
    for (protocol, status), total in list(recorder.responses.items()):
        yield "rayserve_responses", {"protocol": protocol, "status": str(status)}, total
    for reason, total in list(recorder.defaults.items()):
        yield "rayserve_default_outputs", {"reason": reason}, total


def _histogram(name: str, histogram: Histogram, tags: Mapping[str, str]) -> Iterator[Sample]:
    bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    for bound, total in zip(bounds, accumulate(histogram.counts), strict=True):
        yield f"{name}_bucket", {**tags, "le": bound}, total
    yield f"{name}_sum", tags, histogram.sum
    yield f"{name}_count", tags, histogram.count
