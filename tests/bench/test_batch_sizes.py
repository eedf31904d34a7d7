"""Sizes of batches that stand together in a report."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve_app.bench.batch_sizes import size_range, up_to_powers


@given(st.dictionaries(st.integers(1, 2000), st.integers(1, 100)))
def test_each_size_stands_with_the_next_power_of_two(batches: dict[int, int]) -> None:
    found = up_to_powers(batches)
    assert found.total() == sum(batches.values())
    for power, count in found.items():
        assert count == sum(n for size, n in batches.items() if power / 2 < size <= power)


@pytest.mark.parametrize(
    ("power", "text"), [(1, "1"), (2, "2"), (4, "3-4"), (8, "5-8"), (32, "17-32")]
)
def test_ranges_are_named_by_their_ends(power: int, text: str) -> None:
    assert size_range(power) == text
