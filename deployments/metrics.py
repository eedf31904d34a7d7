"""Exports a model's counters as Prometheus histograms and counters, once a second.

A histogram of a metrics library wants every single value; here its buckets are counters that grow
by what a second brought, so a request costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from time import monotonic
from typing import Protocol

from rayserve_app.recorder import Histogram, Recorder

logger = logging.getLogger(__name__)

PERIOD_S = 1.0

COMPLAINT_PERIOD_S = 60.0
"""A counter that cannot be reached is told of no more often: it is tried again every second."""

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


class Counter(Protocol):
    """What is asked of a counter of the metrics library."""

    def inc(self, value: float, tags: dict[str, str]) -> None: ...


class MetricsExporter:
    """Adds what a recorder counted since the last time to counters of a metrics library."""

    def __init__(
        self, recorder: Recorder, create_counter: Callable[[str, str, tuple[str, ...]], Counter]
    ) -> None:
        self._recorder = recorder
        self._counters = {
            name: create_counter(name, description, tags)
            for name, (description, tags) in METRICS.items()
        }
        self._exported: dict[tuple[str, tuple[str, ...]], float] = defaultdict(float)
        self._next_complaint_at = 0.0

    async def run(self) -> None:
        """Export once a second until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                self.export()
            except Exception as error:
                self._complain(error)

    def export(self) -> None:
        """Export what is new; what a counter does not take is tried again the next time."""
        for name, tags, total in samples(self._recorder):
            key = (name, tuple(tags.values()))
            increase = total - self._exported[key]
            if increase > 0:
                try:
                    self._counters[name].inc(increase, tags=dict(tags))
                except Exception as error:  # the others are none the worse for it
                    self._complain(error)
                else:
                    self._exported[key] = total

    def _complain(self, error: Exception) -> None:
        now = monotonic()
        if now >= self._next_complaint_at:
            self._next_complaint_at = now + COMPLAINT_PERIOD_S
            logger.error("Metrics could not be exported", exc_info=error)


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
