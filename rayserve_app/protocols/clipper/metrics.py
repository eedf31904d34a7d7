"""Clipper's metrics report: counters, ratios, meters and histograms, every value a string.

Source: ucbrise/clipper, src/libclipper/src/metrics.cpp, commit 9f25e3f; its names are those that
monitoring reads. They count what one replica did.
"""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np

from rayserve_app.metrics.recorder import Histogram, Recorder
from rayserve_app.protocols.timers import SAMPLE_SIZE, Meter, Rates, Timer, quantiles
from rayserve_app.types import Array


class ApplicationMetrics:
    """What Clipper's query frontend counts of one application."""

    __slots__ = ("_items", "defaults", "latency")

    def __init__(self) -> None:
        self.latency = Timer()
        self._items = Meter()
        self.defaults = 0
        """Predictions that were the default output."""

    def report(self, name: str, version: str, recorder: Recorder, now: float) -> dict[str, Any]:
        """Return the whole report (MetricsRegistry::report_metrics).

        What stands under the model counts the items of all protocols; its histograms are known to
        the next bound of the recorder's. There is no prediction cache: its ratios are 0.
        """
        app, model, count = f"app:{name}", f"model:{name}:{version}", self.latency.count
        items = recorder.batch_items.sum
        rates = self._items.rates(items, now)
        # Upstream writes `nan` for a ratio of nothing.
        defaults = self.defaults / count if count else nan
        latency = self.latency.sample * 1e6
        model_latency = _sample(recorder.stage_seconds["predict"]) * 1e6
        return {
            "counters": [
                {f"{app}:num_predictions": {"count": str(count)}},
                {f"{model}:num_predictions": {"count": str(int(items))}},
                {"internal:aggregate_num_predictions": {"count": str(int(items))}},
                {"internal:prediction_cache_lookups": {"count": "0"}},
            ],
            "ratio_counters": [
                {f"{app}:default_prediction_ratio": {"ratio": _text(defaults)}},
                {f"{model}:cache_hit_ratio": {"ratio": "0"}},
                {"internal:prediction_cache_hit_ratio": {"ratio": "0"}},
            ],
            "meters": [
                {f"{app}:prediction_throughput": _meter(self.latency.rates(now))},
                {f"{model}:prediction_throughput": _meter(rates)},
                {"internal:aggregate_model_throughput": _meter(rates)},
            ],
            "histograms": [
                {f"{app}:prediction_latency": _histogram(latency, "microseconds")},
                {f"{model}:prediction_latency": _histogram(model_latency, "microseconds")},
                {f"{model}:batch_size": _histogram(_sample(recorder.batch_items), "queries")},
            ],
        }


def _meter(rates: Rates) -> dict[str, str]:
    return {
        "unit": "events per second",
        "rate": _text(rates.mean),
        "rate_1min": _text(rates.one_minute),
        "rate_5min": _text(rates.five_minutes),
        "rate_15min": _text(rates.fifteen_minutes),
    }


def _histogram(sample: Array, unit: str) -> dict[str, str]:
    low = high = mean = deviation = p50 = p95 = p99 = 0.0
    if len(sample):
        low, high, mean = float(sample.min()), float(sample.max()), float(sample.mean())
        deviation = float(sample.std())
        p50, p95, p99 = quantiles(sample, 0.5, 0.95, 0.99)
    return {
        "unit": unit,
        "size": str(len(sample)),
        "min": str(int(low)),
        "max": str(int(high)),
        "mean": _text(mean),
        "std_dev": _text(deviation),
        "p50": _text(p50),
        "p95": _text(p95),
        "p99": _text(p99),
    }


def _sample(histogram: Histogram) -> Array:
    """Return values in the proportions of a histogram, each its bound; SAMPLE_SIZE at most, or a
    few more."""
    counts = np.array(histogram.counts)
    if (total := counts.sum()) > SAMPLE_SIZE:
        counts = np.ceil(counts * (SAMPLE_SIZE / total)).astype(int)
    return np.repeat((*histogram.bounds, histogram.bounds[-1]), counts)


def _text(value: float) -> str:
    return f"{value:.17g}"
