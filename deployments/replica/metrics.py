"""Exports a model's counters as Prometheus histograms and counters, once a second.

A histogram of a metrics library wants every single value; here its buckets are counters that grow
by what a second brought, so a request costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from rayserve_app.metrics.recorder import Recorder
from rayserve_app.metrics.totals import METRICS, samples

logger = logging.getLogger(__name__)

PERIOD_S = 1.0

COMPLAINT_PERIOD_S = 60.0
"""A counter that cannot be reached is told of no more often: it is tried again every second."""


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
