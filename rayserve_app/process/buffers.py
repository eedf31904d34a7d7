"""Memory for pixels and batches that is used again.

Pixels come and go by the megabyte, and memory that malloc has given back to the kernel is faulted
in again page by page, which took longer than the decoding itself. A buffer is free again when
nobody but the pool refers to it: arrays keep what they are views of alive, so whoever still holds
one, a model or a socket, keeps it from being used for something else.
"""

from __future__ import annotations

import math
import sys
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import DTypeLike

from rayserve_app.types import Array

LEAST_BYTES: Final = 1 << 17
"""Smaller arrays are malloc's own, which keeps them."""

MOST_BYTES: Final = 1 << 28
"""What the pool of a process keeps; beyond it, arrays are malloc's as well."""

_MOST_WASTE: Final = 4
"""A buffer may be so many times larger than what is asked for."""


class Buffers:
    """A pool of buffers for arrays; its methods may be called from any thread."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._buffers: list[Array] = []
        self._lock = Lock()

    @property
    def size_bytes(self) -> int:
        """Bytes of all buffers, used and free."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Return an array in C order with arbitrary content, as `np.empty` does."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size < LEAST_BYTES or size > self._most_bytes or dtype.hasobject:
            return np.empty(shape, dtype)
        with self._lock:
            buffer = self._take_free(size)
            if buffer is None:
                buffer = self._add(size)
            array: Array = buffer[:size].view(dtype).reshape(shape)
        return array

    def _take_free(self, size: int) -> Array | None:
        """Return the smallest free buffer that fits."""
        best: Array | None = None
        for buffer in self._buffers:
            fits = size <= buffer.nbytes <= _MOST_WASTE * size
            is_better = fits and (best is None or buffer.nbytes < best.nbytes)
            # The list's reference, the loop's and the call's.
            if is_better and sys.getrefcount(buffer) == 3:
                best = buffer
        return best

    def _add(self, size: int) -> Array:
        """Return a new buffer, which the pool keeps if there is room, if need be in place of free
        ones."""
        excess = self.size_bytes + size - self._most_bytes
        for index in reversed(range(len(self._buffers))):
            # The list's reference and the call's.
            if excess > 0 and sys.getrefcount(self._buffers[index]) == 2:
                excess -= self._buffers.pop(index).nbytes
        buffer = np.empty(size, np.uint8)
        if excess <= 0:
            self._buffers.append(buffer)
        return buffer


_PROCESS: Final = Buffers()


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return an array in C order with arbitrary content, from the pool of this process."""
    return _PROCESS.empty(shape, dtype)


def stack(arrays: list[Array]) -> Array:
    """Return arrays of one shape and type as one with a new axis 0, as `np.stack` does; without a
    copy if they follow each other in one buffer already."""
    first = arrays[0]
    if len(arrays) == 1:
        return first[None]
    if _follow_each_other(arrays):
        shape, strides = (len(arrays), *first.shape), (first.nbytes, *first.strides)
        return np.lib.stride_tricks.as_strided(first, shape, strides)
    return np.stack(arrays, out=empty((len(arrays), *first.shape), first.dtype))


def _follow_each_other(arrays: list[Array]) -> bool:
    first = arrays[0]
    if first.base is None or not first.flags.c_contiguous or not first.nbytes:
        return False
    address = first.ctypes.data
    return all(
        array.base is first.base
        and array.shape == first.shape
        and array.dtype == first.dtype
        and array.flags.c_contiguous
        and array.ctypes.data == address + position * first.nbytes
        for position, array in enumerate(arrays)
    )
