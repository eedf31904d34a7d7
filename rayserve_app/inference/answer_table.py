"""Answers by key, bounded by bytes; those that were not asked for longest go first.

A kept answer is a copy: the row of a batch would keep the whole batch's array alive, and whoever
has asked for it may change it. Arrays are handed out as they are, read-only; lists and mappings are
handed out as copies.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np

from rayserve_app.inference.item_content import size_bytes
from rayserve_app.types import Array, Reply, Row

OVERHEAD_BYTES: Final = 500
"""Of an answer besides its value: its key, its place in the table, and an array's header."""

ATOMS: Final = (str, bytes, int, float, complex, type(None), np.number, np.bool_, Reply)
"""Types of values that nobody can change."""


class Answer(NamedTuple):
    """A copy of a row, and the bytes that it takes."""

    row: Row
    size_bytes: int


class KeptAnswers:
    """A table of answers that forgets the least recently used."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.size_bytes = 0
        self._answers: OrderedDict[Hashable, Answer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: Hashable) -> Row | None:
        """Return the answer, which its reader cannot change for others; None if there is none."""
        answer = self._answers.get(key)
        if answer is None:
            return None
        self._answers.move_to_end(key)
        return hand_out(answer.row)

    def put(self, key: Hashable, answer: Answer) -> None:
        """Keep an answer, in place of those that were not asked for longest."""
        if answer.size_bytes > self.most_bytes:
            return
        former = self._answers.pop(key, None)
        if former is not None:
            self.size_bytes -= former.size_bytes
        self._answers[key] = answer
        self.size_bytes += answer.size_bytes
        while self.size_bytes > self.most_bytes:
            _, oldest = self._answers.popitem(last=False)
            self.size_bytes -= oldest.size_bytes


def row_bytes(row: Row) -> int:
    """Return the bytes of a row's arrays, buffers and strings."""
    if isinstance(row.outputs, Mapping):
        return sum(array.nbytes // len(array) for array in row.outputs.values())
    return size_bytes(row.value)


def copy_row(row: Row) -> Answer | None:
    """Return a copy of a row, to be kept; None if it holds something that cannot be copied."""
    try:
        if isinstance(row.outputs, Mapping):
            start, stop = row.position, row.position + 1
            copies = {name: _copy(array[start:stop]) for name, array in row.outputs.items()}
            arrays = {name: array for name, (array, _) in copies.items()}
            size = sum(count for _, count in copies.values())
            return Answer(Row(MappingProxyType(arrays), 0), size + OVERHEAD_BYTES)
        value, size = _copy(row.value)
    except TypeError:
        return None
    return Answer(Row((value,), 0), size + OVERHEAD_BYTES)


def hand_out(row: Row) -> Row:
    """Return a row for one more reader: what can be changed in it is its own."""
    if isinstance(row.outputs, Mapping):
        return row
    value = row.value
    return Row((_rebuild(value),), 0) if isinstance(value, list | tuple | dict) else row


def _rebuild(value: Any) -> Any:
    if isinstance(value, list):
        return [_rebuild(element) for element in value]
    if isinstance(value, dict):
        return {key: _rebuild(element) for key, element in value.items()}
    if type(value) is tuple:
        return tuple([_rebuild(element) for element in value])
    return value


def _copy(value: Any) -> tuple[Any, int]:
    """Return a copy and its bytes.

    Raises:
        TypeError: it holds something that somebody might change, and that is no plain collection.
    """
    if isinstance(value, np.ndarray):
        return _copy_array(value)
    if type(value) is dict:
        keys, size = _copy_all(value)
        elements, more = _copy_all(value.values())
        return dict(zip(keys, elements, strict=True)), sys.getsizeof(value) + size + more
    if type(value) in (list, tuple):
        elements, size = _copy_all(value)
        return type(value)(elements), sys.getsizeof(value) + size
    if not isinstance(value, ATOMS):
        raise TypeError(type(value).__name__)
    return value, size_bytes(value) if isinstance(value, Reply) else sys.getsizeof(value)


def _copy_all(values: Iterable[Any]) -> tuple[list[Any], int]:
    copies = [_copy(value) for value in values]
    return [copy for copy, _ in copies], sum(size for _, size in copies)


def _copy_array(array: Array) -> tuple[Array, int]:
    copy = np.array(array)
    size = copy.nbytes
    if copy.dtype.hasobject:
        if not all(isinstance(element, ATOMS) for element in copy.flat):
            raise TypeError(str(copy.dtype))
        size += sum(map(sys.getsizeof, copy.flat))
    copy.flags.writeable = False
    return copy, size
