"""Batches of arrays that may lie side by side already."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve_app.inference.batch_arrays import stack


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


@given(
    st.integers(1, 4),
    st.sampled_from([(), (3,), (2, 3), (300, 200)]),
    st.sampled_from(["uint8", "float32"]),
    st.booleans(),
)
def test_stack_is_numpys(count: int, shape: tuple[int, ...], dtype: str, is_batch: bool) -> None:
    batch = np.empty((count, *shape), dtype)
    batch[...] = np.arange(batch.size).reshape(batch.shape) % 251
    arrays = list(batch) if is_batch else [array.copy() for array in batch]
    arrays = [np.asarray(array) for array in arrays]
    np.testing.assert_array_equal(stack(arrays), np.stack(arrays), strict=True)


def test_what_lies_side_by_side_is_a_batch_already() -> None:
    batch = np.empty((4, 200, 300), np.uint8)
    rows = list(batch)
    assert address(stack(rows)) == address(batch)
    assert stack(rows[1:3]).base is batch.base or np.shares_memory(stack(rows[1:3]), batch)


@pytest.mark.parametrize("order", [[1, 0], [0, 2], [0, 0], [3, 0]])
def test_what_does_not_follow_each_other_is_copied(order: list[int]) -> None:
    batch = np.empty((4, 200, 300), np.uint8)
    batch[...] = np.arange(4)[:, None, None]
    rows = [batch[index] for index in order]
    stacked = stack(rows)
    assert not np.shares_memory(stacked, batch)
    assert stacked[:, 0, 0].tolist() == order
