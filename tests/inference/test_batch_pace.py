"""What is learned of batches: how long they take, and the size that keeps a target."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve_app.errors import ConfigurationError
from rayserve_app.inference.batch_pace import LearnedPace, Pace
from rayserve_app.settings.model import ModelSettings, parse_settings

Model = Callable[[int], float]
"""The seconds that a batch of so many items takes."""


def linear(fixed_s: float, item_s: float) -> Model:
    return lambda size: fixed_s + item_s * size


def run(pace: LearnedPace, model: Model, batches: int) -> list[float]:
    """Run so many full batches; return their seconds."""
    times = []
    for _ in range(batches):
        times.append(model(pace.limit))
        pace.observe(pace.limit, times[-1])
    return times


def test_the_size_grows_from_one_to_what_the_target_allows_and_is_never_late_on_the_way() -> None:
    pace = LearnedPace(64, 0.05)
    assert pace.limit == 1
    times = run(pace, linear(0.005, 0.0015), 40)
    assert max(times) <= 0.05
    assert 24 <= pace.limit <= 30  # 30 items take 50 ms


def test_at_the_best_size_one_batch_in_twenty_is_late_at_most() -> None:
    pace = LearnedPace(64, 0.05)
    model = linear(0.005, 0.0015)
    run(pace, model, 200)
    times = run(pace, model, 1000)
    assert sum(time > 0.05 for time in times) <= 50
    assert sum(times) / len(times) >= 0.9 * 0.05


@given(
    fixed=st.floats(0, 0.5), best=st.integers(1, 200), most=st.integers(1, 200), seed=st.integers(0)
)
def test_whatever_the_model_costs_its_best_size_is_found(
    fixed: float, best: int, most: int, seed: int
) -> None:
    item_s = (1 - fixed) / (best + 0.5)
    pace = LearnedPace(most, 1.0)
    noise = random.Random(seed)
    run(pace, lambda size: (fixed + item_s * size) * noise.uniform(0.98, 1.0), 300)
    reachable = min(best, most)
    assert 0.7 * reachable - 1 <= pace.limit <= min(1.05 * best + 1, most)


def test_the_size_stays_below_the_declared_one() -> None:
    pace = LearnedPace(10, 1.0)
    run(pace, linear(0.001, 0.001), 200)
    assert pace.limit == 10


def test_a_model_that_becomes_slower_gets_smaller_batches_and_larger_ones_when_it_recovers() -> (
    None
):
    pace = LearnedPace(64, 0.05)
    run(pace, linear(0.005, 0.0015), 60)
    times = run(pace, linear(0.02, 0.006), 20)  # 5 items take 50 ms
    assert max(times[5:]) <= 0.05
    assert 3 <= pace.limit <= 5
    run(pace, linear(0.005, 0.0015), 60)
    assert 24 <= pace.limit <= 30


def test_a_model_too_slow_for_any_batch_gets_single_items() -> None:
    pace = LearnedPace(8, 0.05)
    run(pace, lambda size: 0.08, 50)
    assert pace.limit == 1


def test_a_model_that_pads_its_batches_is_kept_below_the_step() -> None:
    """Sizes up to 16 cost as much as 16, those above as much as 32."""
    pace = LearnedPace(32, 0.06)

    def model(size: int) -> float:
        return 0.04 if size <= 16 else 0.08

    run(pace, model, 100)
    times = run(pace, model, 400)
    assert sum(time > 0.06 for time in times) <= 40
    assert 12 <= pace.limit <= 17


def test_one_pause_of_the_machine_costs_a_few_batches() -> None:
    pace = LearnedPace(64, 0.05)
    run(pace, linear(0.005, 0.0015), 60)
    size = pace.limit
    pace.observe(size, 0.5)
    assert size // 2 <= pace.limit < size
    run(pace, linear(0.005, 0.0015), 6)
    assert pace.limit >= 0.8 * size


def test_batches_that_are_not_full_say_nothing_about_larger_ones() -> None:
    pace = LearnedPace(64, 0.05)
    run(pace, linear(0.005, 0.0015), 6)
    size = pace.limit
    for _ in range(100):
        pace.observe(1, 0.001)
    assert pace.limit == size > 1


def test_the_time_of_a_batch_is_expected_as_of_late() -> None:
    pace = Pace(8)
    assert pace.expected_s(8) == 0
    for _ in range(100):
        pace.observe(8, 0.04)
    assert pace.expected_s(8) == pytest.approx(0.04)
    assert pace.expected_s(20) == pytest.approx(0.04)
    for _ in range(40):
        pace.observe(8, 0.08)
    assert pace.expected_s(8) == pytest.approx(0.08, rel=0.02)


def test_less_is_expected_of_a_smaller_batch_and_of_a_pause_little() -> None:
    pace = Pace(8)
    for _ in range(20):
        pace.observe(8, 0.04)
    assert pace.expected_s(2) == pytest.approx(0.01)
    pace.observe(8, 10.0)
    assert pace.expected_s(8) < 0.05


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"target_latency_ms": 50, "mode": "serve_batch"}, "needs 'mode: slot_first'"),
        ({"target_latency_ms": 5000}, "of 5000 is above 'deadline.latency_ms' of 3000"),
    ],
)
def test_a_target_that_cannot_be_kept_is_refused(section: object, sentence: str) -> None:
    model = {"input": {"type": "string"}, "batching": section, "deadline": {"latency_ms": 3000}}
    with pytest.raises(ConfigurationError, match=sentence):
        parse_settings(ModelSettings, {"model": model})


def test_batches_are_no_longer_than_they_may_be_where_smaller_ones_do_as_much() -> None:
    growing = Pace(32, 0.6)
    for size in (1, 8, 32):
        growing.observe(size, 0.03 * size)
    assert growing.limit == 20
    quick = Pace(32, 0.6)
    for size in (1, 8, 32):
        quick.observe(size, 0.01 * size)
    assert quick.limit == 32


def test_batches_that_take_as_long_however_small_stay_large() -> None:
    pace = Pace(32, 0.1)
    for size in (1, 8, 32):
        pace.observe(size, 0.2)
    assert pace.limit == 32


def test_nothing_is_cut_while_only_one_size_was_seen() -> None:
    pace = Pace(32, 0.1)
    pace.observe(1, 0.05)
    assert pace.limit == 32
