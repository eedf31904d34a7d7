"""A line through what was measured of late."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve_app.inference.batch_cost import MEMORY, Cost


def learn(*measured: tuple[float, float]) -> Cost:
    cost = Cost()
    for size, seconds in measured:
        cost.observe(size, seconds)
    return cost


def test_nothing_is_expected_of_what_is_unknown() -> None:
    cost = Cost()
    assert (cost.of(5), cost.of_batches(100, 8), cost.shortest_s(8), cost.usual_s) == (0, 0, 0, 0)


def test_of_one_size_costs_are_taken_to_grow_with_it() -> None:
    cost = learn((2, 0.1), (2, 0.1))
    assert cost.of(8) == pytest.approx(0.4)
    assert cost.of(1) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("fixed_s", "each_s"), [(0.05, 0.0), (0.0, 0.03), (0.02, 0.01), (1.0, 0.001)]
)
def test_two_sizes_make_a_line(fixed_s: float, each_s: float) -> None:
    cost = learn(*((size, fixed_s + size * each_s) for size in (1, 6)))
    assert cost.of(32) == pytest.approx(fixed_s + 32 * each_s)
    assert cost.of_batches(20, 8) == pytest.approx(3 * fixed_s + 20 * each_s)


def test_a_first_call_that_takes_much_longer_than_the_second_is_forgotten() -> None:
    assert learn((1, 3.0), (1, 0.05)).of(1) == pytest.approx(0.05)
    assert learn((8, 0.2), (1, 0.05)).of(8) == pytest.approx(0.2)


def test_the_line_stays_when_only_one_size_is_left() -> None:
    cost = learn((1, 0.05), (32, 0.05), *[(32, 0.05)] * 200)
    assert cost.of(64) == pytest.approx(0.05)


def test_a_pause_does_not_make_costs_grow() -> None:
    """A large batch that was slow once among small ones."""
    cost = learn(*[(1, 0.05), (4, 0.05)] * 20, (32, 2.0))
    assert cost.of(32) < 0.5
    assert learn((1, 0.05), (4, 0.05), *[(32, 2.0)] * 20).of(32) == pytest.approx(2, rel=0.4)


def test_what_has_changed_is_learned() -> None:
    cost = learn(*[(8, 0.2)] * 50, *[(8, 1.0)] * 4 * MEMORY)
    assert cost.of(8) == pytest.approx(1.0, rel=0.05)


def test_a_guess_gives_way_to_what_is_measured() -> None:
    known = learn(*[(8, 0.2)] * 50)
    guess = known.guess()
    assert guess.of(8) == known.of(8)
    for _ in range(MEMORY):
        guess.observe(8, 2.0)
    assert guess.of(8) > 1.7
    assert known.of(8) == pytest.approx(0.2)


@given(
    measured=st.lists(st.tuples(st.floats(1e-3, 1e9), st.floats(0, 1e4)), min_size=1, max_size=30),
    size=st.floats(0, 1e9),
)
def test_no_cost_is_negative(measured: list[tuple[float, float]], size: float) -> None:
    cost = learn(*measured)
    assert cost.fixed_s >= 0
    assert cost.each_s >= 0
    assert cost.of(size) >= 0
    assert cost.shortest(8) >= 1


@given(seed=st.integers(0))
def test_noise_moves_the_line_a_little(seed: int) -> None:
    source = random.Random(seed)
    sizes = [source.randint(1, 32) for _ in range(8)]
    if len(set(sizes)) < 4:
        return
    cost = learn(*((n, (0.02 + 0.005 * n) * source.uniform(0.95, 1.05)) for n in sizes))
    assert cost.of(16) == pytest.approx(0.1, rel=0.3)


def test_batches_that_cost_the_same_however_small_are_worthwhile_when_nearly_full() -> None:
    constant = learn((1, 0.05), (32, 0.05))
    assert constant.shortest_s(32) == pytest.approx(0.05)
    growing = learn((2, 0.05), (8, 0.2))
    assert growing.shortest(8) == 1  # any size does
    assert growing.shortest_s(8) == pytest.approx(0.025)
    assert learn((2, 0.05)).shortest_s(8) == 0.05  # nobody knows
    between = learn((1, 0.03), (8, 0.1))  # 0.02 s, and 0.01 for each
    shortest_s = between.shortest_s(8)
    size = (shortest_s - 0.02) / 0.01
    assert size / shortest_s == pytest.approx(0.9 * 8 / 0.1)
