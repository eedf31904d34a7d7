"""Counts, durations and rates of events."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rayserve_app.protocols.timers import SAMPLE_SIZE, Meter, Timer, quantiles


def test_a_timer_counts_events_and_keeps_the_latest_durations() -> None:
    timer = Timer()
    timer.observe(0.5)
    timer.observe(0.25, events=3)
    assert timer.count == 4
    assert sorted(timer.sample) == [0.25, 0.25, 0.25, 0.5]
    for _ in range(SAMPLE_SIZE - 1):
        timer.observe(1.0)
    assert timer.count == SAMPLE_SIZE + 3
    assert len(timer.sample) == SAMPLE_SIZE
    assert sorted(timer.sample)[:2] == [0.25, 1.0]


def test_rates_before_any_time_has_passed_are_0() -> None:
    assert Meter(7.0).rates(3, 7.0) == (0, 0, 0, 0)
    assert Timer(7.0).rates(7.0) == (0, 0, 0, 0)


def test_a_steady_rate_is_every_average() -> None:
    meter = Meter(100.0)
    for second in range(1, 50):
        assert meter.rates(30 * second, 100.0 + second) == pytest.approx((30, 30, 30, 30))


def test_averages_forget_with_their_own_time() -> None:
    meter = Meter(0.0)
    meter.rates(600, 60.0)
    rates = meter.rates(600, 120.0)
    assert rates.mean == 5
    assert rates.one_minute == pytest.approx(10 / math.e)
    assert rates.five_minutes == pytest.approx(10 * math.exp(-1 / 5))
    assert rates.fifteen_minutes == pytest.approx(10 * math.exp(-1 / 15))


def test_asking_often_or_seldom_tells_the_same_of_a_steady_rate() -> None:
    often, seldom = Meter(0.0), Meter(0.0)
    for meter in (often, seldom):
        meter.rates(0, 60.0)
    for second in range(61, 121):
        asked = often.rates(4 * (second - 60), float(second))
    assert asked == pytest.approx(seldom.rates(240, 120.0))


def test_quantiles_stand_at_rank_times_n_plus_1() -> None:
    # metrics.cpp, Histogram::percentile: x = rank * (n + 1), between the values around x.
    assert quantiles(np.array([40.0, 10.0, 30.0, 20.0]), 0.5, 0.3, 0.01, 0.99) == [25, 15, 10, 40]
    assert quantiles(np.array([7.0]), 0.5) == [7]
