"""Counts, durations and rates, as the metrics of Clipper and of Cluster Serving tell them.

Sources: ucbrise/clipper, src/libclipper/src/metrics.cpp (Meter, EWMA, Histogram), which follows
Dropwizard Metrics, whose Timer Cluster Serving uses. Rates are worked out when somebody asks, from
totals, so that an event costs nothing more than being counted.
"""

from __future__ import annotations

from array import array
from math import exp
from time import perf_counter
from typing import Final, NamedTuple

import numpy as np

from rayserve_app.types import Array

SAMPLE_SIZE: Final = 4096
"""The latest durations that are kept (query_frontend.hpp: a sample of 4096)."""


class Rates(NamedTuple):
    """Events per second: since the start, and averaged over the last minutes with weights that
    fall off exponentially."""

    mean: float
    one_minute: float
    five_minutes: float
    fifteen_minutes: float


class Meter:
    """Turns a total into rates."""

    __slots__ = ("_averages", "_read_at", "_started_at", "_total")

    def __init__(self, now: float | None = None) -> None:
        """Start to count from 0 at a time by `perf_counter`."""
        self._started_at = self._read_at = perf_counter() if now is None else now
        self._averages: tuple[float, float, float] | None = None
        self._total = 0.0

    def rates(self, total: float, now: float) -> Rates:
        """Return the rates of a total that never falls; what came since the last call is taken to
        have come evenly."""
        if now > self._read_at:
            elapsed_s = now - self._read_at
            rate = (total - self._total) / elapsed_s
            one, five, fifteen = self._averages or (rate, rate, rate)
            self._averages = (
                rate + (one - rate) * exp(-elapsed_s / 60),
                rate + (five - rate) * exp(-elapsed_s / 300),
                rate + (fifteen - rate) * exp(-elapsed_s / 900),
            )
            self._read_at, self._total = now, total
        elapsed_s = now - self._started_at
        mean = total / elapsed_s if elapsed_s > 0 else 0.0
        return Rates(mean, *(self._averages or (0.0, 0.0, 0.0)))


class Timer:
    """Counts and times one kind of event."""

    __slots__ = ("_meter", "_sample", "count")

    def __init__(self, now: float | None = None) -> None:
        self._meter = Meter(now)
        self._sample = array("d")
        self.count = 0

    def observe(self, seconds: float, events: int = 1) -> None:
        """Count events that each took so long."""
        sample, count = self._sample, self.count
        for number in range(count, count + events):
            if number < SAMPLE_SIZE:
                sample.append(seconds)
            else:
                sample[number % SAMPLE_SIZE] = seconds
        self.count = count + events

    def rates(self, now: float) -> Rates:
        """Return the rates of the events."""
        return self._meter.rates(self.count, now)

    @property
    def sample(self) -> Array:
        """The latest durations in seconds, (count,) float64, in no order; from any thread."""
        # Of a copy, which is made at once: an array that numpy looks at cannot grow.
        return np.array(self._sample[:], dtype=np.float64)


def quantiles(sample: Array, *ranks: float) -> list[float]:
    """Return the values at these ranks, 0..1, of a sample, (count,), that is not empty.

    Between two values they are interpolated as both upstreams do (metrics.cpp,
    Histogram::percentile): rank times (n + 1) is the position.
    """
    return [float(value) for value in np.quantile(sample, ranks, method="weibull")]
