"""Exports a model's counters as Prometheus histograms and counters, once a second.

A histogram of a metrics library wants every single value; here its buckets are counters that grow
by what a second brought, so a request costs nothing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

from rayserve_app.recorder import Recorder
from rayserve_app.totals import METRICS, samples

PERIOD_S = 1.0


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

    async def run(self) -> None:
        """Export once a second until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            self.export()

    def export(self) -> None:
        """Export what is new."""
        for name, tags, total in samples(self._recorder):
            key = (name, tuple(tags.values()))
            increase = total - self._exported[key]
            if increase > 0:
                self._counters[name].inc(increase, tags=dict(tags))
                self._exported[key] = total
