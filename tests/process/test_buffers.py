"""Memory that is used again, but never while somebody holds it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve_app.process.buffers import LEAST_BYTES, Buffers, empty, stack

LARGE = (LEAST_BYTES,)


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


@pytest.mark.parametrize("shape", [(3,), (0, 5), LARGE, (64, 64, 64)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64"])
def test_an_array_is_as_asked_for(shape: tuple[int, ...], dtype: str) -> None:
    array = Buffers().empty(shape, dtype)
    assert (array.shape, array.dtype, array.flags.c_contiguous) == (shape, np.dtype(dtype), True)
    assert array.flags.writeable


def test_memory_is_used_again_when_nobody_holds_it() -> None:
    buffers = Buffers()
    first = buffers.empty(LARGE, np.uint8)
    where = address(first)
    del first
    second = buffers.empty((LEAST_BYTES // 4,), np.float32)
    assert address(second) == where
    assert buffers.size_bytes == LEAST_BYTES


@pytest.mark.parametrize(
    "hold",
    [
        lambda array: array,
        lambda array: array[5:6],
        lambda array: array.reshape(-1, 2).T[0],
        lambda array: array.view(np.int32),
        lambda array: memoryview(array)[7:],
        lambda array: np.frombuffer(array[10:], np.uint8),
        lambda array: np.lib.stride_tricks.as_strided(array, (2, 2), (1, 1)),
    ],
)
def test_memory_that_somebody_holds_in_any_way_is_left_alone(hold: Any) -> None:
    buffers = Buffers()
    array = buffers.empty(LARGE, np.uint8)
    where, held = address(array), hold(array)
    del array
    assert address(buffers.empty(LARGE, np.uint8)) != where
    del held
    assert address(buffers.empty(LARGE, np.uint8)) == where


def test_a_much_larger_buffer_is_not_spent_on_a_small_array() -> None:
    buffers = Buffers()
    where = address(buffers.empty((5 * LEAST_BYTES,), np.uint8))
    small = buffers.empty(LARGE, np.uint8)
    assert address(small) != where
    assert address(buffers.empty((2 * LEAST_BYTES,), np.uint8)) == where


def test_the_pool_keeps_no_more_than_it_may() -> None:
    buffers = Buffers(most_bytes=3 * LEAST_BYTES)
    held = [buffers.empty(LARGE, np.uint8) for _ in range(5)]
    assert buffers.size_bytes == 3 * LEAST_BYTES
    assert len({address(array) for array in held}) == 5
    del held
    # Free ones make room for what does not fit into them.
    larger = buffers.empty((2 * LEAST_BYTES,), np.uint8)
    assert buffers.size_bytes <= 3 * LEAST_BYTES
    where = address(larger)
    del larger
    assert address(buffers.empty((2 * LEAST_BYTES,), np.uint8)) == where


def test_what_is_larger_than_the_pool_is_not_kept() -> None:
    buffers = Buffers(most_bytes=LEAST_BYTES)
    assert buffers.empty((2 * LEAST_BYTES,), np.uint8).nbytes == 2 * LEAST_BYTES
    assert buffers.size_bytes == 0


def test_threads_never_share_a_buffer() -> None:
    buffers = Buffers()
    faults: list[str] = []

    def work(number: int) -> None:
        for _ in range(300):
            array = buffers.empty(LARGE, np.uint8)
            array.fill(number)
            if not (array == number).all():
                faults.append("overwritten")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    # Each holds its last one while it asks for the next.
    assert buffers.size_bytes <= 2 * 4 * LEAST_BYTES


@given(
    st.integers(1, 4),
    st.sampled_from([(), (3,), (2, 3), (300, 200)]),
    st.sampled_from(["uint8", "float32"]),
    st.booleans(),
)
def test_stack_is_numpys(count: int, shape: tuple[int, ...], dtype: str, is_batch: bool) -> None:
    batch = empty((count, *shape), dtype)
    batch[...] = np.arange(batch.size).reshape(batch.shape) % 251
    arrays = list(batch) if is_batch else [array.copy() for array in batch]
    arrays = [np.asarray(array) for array in arrays]
    np.testing.assert_array_equal(stack(arrays), np.stack(arrays), strict=True)


def test_what_lies_side_by_side_is_a_batch_already() -> None:
    batch = empty((4, 200, 300), np.uint8)
    rows = list(batch)
    assert address(stack(rows)) == address(batch)
    assert stack(rows[1:3]).base is batch.base or np.shares_memory(stack(rows[1:3]), batch)


@pytest.mark.parametrize("order", [[1, 0], [0, 2], [0, 0], [3, 0]])
def test_what_does_not_follow_each_other_is_copied(order: list[int]) -> None:
    batch = empty((4, 200, 300), np.uint8)
    batch[...] = np.arange(4)[:, None, None]
    rows = [batch[index] for index in order]
    stacked = stack(rows)
    assert not np.shares_memory(stacked, batch)
    assert stacked[:, 0, 0].tolist() == order


def test_a_batch_is_held_by_its_stack() -> None:
    buffers = Buffers()
    batch = buffers.empty((2, LEAST_BYTES), np.uint8)
    where, stacked = address(batch), stack(list(batch))
    del batch
    assert address(buffers.empty((2, LEAST_BYTES), np.uint8)) != where
    del stacked
    assert address(buffers.empty((2, LEAST_BYTES), np.uint8)) == where
