"""What a model counts of itself, in plain integers.

A call of a metrics library costs several microseconds, and a request would need a dozen of them;
adding to a list costs a tenth of one. Whoever exports (deployments/application.py) reads the
totals once a second.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import Final

STAGES: Final = ("queue", "decode", "batch_wait", "predict", "encode")
"""The stages of a request, in order: waiting for a decode thread, decoding, waiting in the
batcher, the batch's prediction, and writing the answer up to its first byte."""

SECONDS: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
ITEMS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Histogram:
    """Counts of values at most each bound, and above the last; with their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self.counts)


class Recorder:
    """The counters of one replica."""

    def __init__(self) -> None:
        self.stage_seconds: Mapping[str, Histogram] = {name: Histogram(SECONDS) for name in STAGES}
        self.batch_items = Histogram(ITEMS)
        self.batch_closed: Counter[str] = Counter()
        """Why batches closed: `full`, `drained` (the queue was empty), `waited`."""
        self.responses: Counter[tuple[str, int]] = Counter()
        """Answers by protocol and HTTP status."""
        self.defaults: Counter[str] = Counter()
        """Answers with the default output, by reason: silent defaults are hard to notice."""
