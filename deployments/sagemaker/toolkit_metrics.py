"""The metrics that functions of a package may count: written to the replica's log.

Source: awslabs/multi-model-server, mms/metrics/*.py; pytorch/serve 0.12,
ts/metrics/metric_cache_abstract.py. The frontends of both read them from the workers' logs.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Sequence
from typing import Any, Final

logger = logging.getLogger(__name__)

UNITS: Final = {
    "ms": "Milliseconds",
    "s": "Seconds",
    "percent": "Percent",
    "count": "Count",
    "MB": "Megabytes",
    "GB": "Gigabytes",
    "kB": "Kilobytes",
    "B": "Bytes",
    None: "unit",
}
TIMES: Final = ("ms", "s")
SIZES: Final = ("MB", "kB", "GB", "B")


class Metric:
    """One metric of one request."""

    def __init__(
        self, name: str, unit: str | None, dimensions: Sequence[Any], *, is_counter: bool
    ) -> None:
        self.name = name
        self.unit = UNITS.get(unit, unit)
        self.value: Any = 0
        self.dimensions = list(dimensions)
        self.request_id: str | None = None
        self._is_counter = is_counter

    def update(self, value: Any) -> None:
        """Add to a counter, and set anything else."""
        self.value = self.value + value if self._is_counter else value

    def add_or_update(
        self, value: Any, dimension_values: Sequence[Any] = (), request_id: str = ""
    ) -> None:
        """Update as TorchServe's metrics are, whose dimensions have their values here."""
        names = [str(each).partition(":")[0] for each in self.dimensions]
        self.dimensions = [
            f"{name}:{value}" for name, value in zip(names, dimension_values, strict=False)
        ] or self.dimensions
        self.request_id = request_id or self.request_id
        self.update(value)

    def __str__(self) -> str:
        dimensions = ",".join(map(str, self.dimensions))
        told = f"{self.name}.{self.unit}:{self.value}|#{dimensions}|#hostname:"
        told += f"{socket.gethostname()},{int(time.time())}"
        return f"{told},{self.request_id}" if self.request_id else told


class MetricsStore:
    """What one request, or loading, has counted."""

    def __init__(self, request_id: str | None, model_name: str) -> None:
        self.store: list[Metric] = []
        self.cache: dict[Any, Metric] = {}
        self.request_ids = None if request_id is None else {0: request_id}
        self.model_name = model_name
        self._request_id = request_id

    def add_counter(
        self, name: str, value: Any, idx: int | None = None, dimensions: Any = None
    ) -> None:
        self._update(name, value, "count", dimensions, is_counter=True)

    def add_time(
        self,
        name: str,
        value: Any,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Any = None,
        metric_type: Any = None,
    ) -> None:
        if unit not in TIMES:
            raise ValueError("the unit for a timed metric should be one of ['ms', 's']")
        self._update(name, value, unit, dimensions)

    def add_size(
        self,
        name: str,
        value: Any,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Any = None,
        metric_type: Any = None,
    ) -> None:
        if unit not in SIZES:
            raise ValueError("The unit for size based metric is one of ['MB','kB', 'GB', 'B']")
        self._update(name, value, unit, dimensions)

    def add_percent(
        self,
        name: str,
        value: Any,
        idx: int | None = None,
        dimensions: Any = None,
        metric_type: Any = None,
    ) -> None:
        self._update(name, value, "percent", dimensions)

    def add_error(self, name: str, value: Any, dimensions: Any = None) -> None:
        self._update(name, value, "", dimensions, is_error=True)

    def add_metric(
        self,
        name: str,
        value: Any,
        idx: Any = None,
        unit: Any = None,
        dimensions: Any = None,
        metric_type: Any = None,
    ) -> None:
        """Add any metric; its unit is the third argument of TorchServe, of MMS the fourth."""
        if isinstance(idx, str):
            unit = idx
        self._update(name, value, unit, dimensions)

    def add_metric_to_cache(
        self, metric_name: str, unit: str, dimension_names: Any = (), metric_type: Any = None
    ) -> Metric:
        """Return a metric of TorchServe, to be updated later; of no type it is a counter."""
        is_counter = metric_type is None or "counter" in str(metric_type).lower()
        metric = Metric(metric_name, unit, dimension_names, is_counter=is_counter)
        self.cache[metric_name] = metric
        self.store.append(metric)
        return metric

    def get_metric(self, metric_name: str, metric_type: Any = None) -> Metric:
        """Return a metric of TorchServe that is there, or raise KeyError."""
        return self.cache[metric_name]

    def emit(self) -> None:
        """Log what was counted, a line for each metric, as the frontends read it."""
        for metric in self.store:
            logger.info("[METRICS]%s", metric)

    def _update(
        self,
        name: str,
        value: Any,
        unit: str | None,
        dimensions: Any,
        *,
        is_counter: bool = False,
        is_error: bool = False,
    ) -> None:
        if dimensions is not None and not isinstance(dimensions, list):
            raise ValueError("Please provide a list of dimensions")
        own = ["Level:Error"] if is_error else [f"ModelName:{self.model_name}", "Level:Model"]
        named = [*(dimensions or ()), *own]
        key = (name, unit, *map(str, named))
        metric = self.cache.get(key)
        if metric is None:
            metric = self.cache[key] = Metric(name, unit, named, is_counter=is_counter)
            metric.request_id = None if is_error else self._request_id
            self.store.append(metric)
        metric.update(value)
