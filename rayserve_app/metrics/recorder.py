"""What a model counts of itself, in plain integers.

A call of a metrics library costs several microseconds, and a request would need a dozen of them;
adding to a list costs a tenth of one. Whoever exports (deployments/replica/metrics.py) reads
the totals once a second.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping
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


class Duration:
    """How often something took place, and how long in all."""

    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        self.count = 0
        self.ns = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += round(seconds * 1e9)


class Inferences:
    """The requests for one version of a model, as Triton's statistics divide their time."""

    __slots__ = (
        "compute_infer",
        "compute_input",
        "compute_output",
        "fail",
        "items",
        "last_ms",
        "queue",
        "success",
    )

    def __init__(self) -> None:
        self.success = Duration()
        self.fail = Duration()
        self.queue = Duration()
        self.compute_input = Duration()
        self.compute_infer = Duration()
        self.compute_output = Duration()
        self.items = 0
        """Items of requests that succeeded."""
        self.last_ms = 0
        """When the last request came, in milliseconds since the epoch."""

    def add(
        self,
        items: int,
        *,
        total_s: float,
        queue_s: float,
        input_s: float,
        infer_s: float,
    ) -> None:
        """Count a request that succeeded, with the seconds that it took in all and by stage until
        its results were there."""
        self.items += items
        self.success.add(total_s)
        self.queue.add(queue_s)
        self.compute_input.add(input_s)
        self.compute_infer.add(infer_s)
        self.compute_output.add(0)

    def add_output(self, seconds: float) -> None:
        """Add the time that writing such a request's results took."""
        self.success.ns += round(seconds * 1e9)
        self.compute_output.ns += round(seconds * 1e9)


class Recorder:
    """The counters of one replica."""

    def __init__(self, replica: str = "") -> None:
        self.replica = replica
        """Its name, where there may be several."""
        self.stage_seconds: Mapping[str, Histogram] = {name: Histogram(SECONDS) for name in STAGES}
        self.batch_items = Histogram(ITEMS)
        self.batch_closed: Counter[str] = Counter()
        """Why batches closed: `full`, `drained` (the queue was empty), `waited`."""
        self.dropped_requests = 0
        """Requests given up before their deadline, because no batch would have ended by then."""
        self.cached_items: Counter[str] = Counter()
        """Items by what the cache had for them: `hit` an answer, `shared` a prediction of an equal
        item that was under way, `miss` nothing. None without a cache."""
        self.responses: Counter[tuple[str, int]] = Counter()
        """Answers by protocol and HTTP status."""
        self.defaults: Counter[str] = Counter()
        """Answers with the default output, by reason: silent defaults are hard to notice."""
        self.inferences: defaultdict[str, Inferences] = defaultdict(Inferences)
        """Requests by the version that they were for."""
        self.executions: defaultdict[tuple[Hashable, int], Duration] = defaultdict(Duration)
        """Batches by what predicted them, `Servable.predict`, and the number of their items."""
