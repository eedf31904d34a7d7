"""Where results are written, and where they end."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rayserve_app.errors import NotAcceptable
from rayserve_app.inference.model import INLINE_BYTES
from rayserve_app.protocols.writing import writing_bytes, written
from rayserve_app.types import Reply, Row
from tests.protocols import create_model


class Traced:
    """An object that tells in which thread it is freed."""

    def __init__(self, freed_in: list[threading.Thread]) -> None:
        self._freed_in = freed_in

    def __del__(self) -> None:
        self._freed_in.append(threading.current_thread())


def row(value: Any) -> Row:
    return Row([value], 0)


@pytest.mark.parametrize(
    "value",
    [1.5, "a word", [1, 2.5], {"label": "cat", "score": 0.5}, np.zeros(100), Reply(b"abc"), [], {}],
)
def test_small_results_are_written_at_once(value: Any) -> None:
    assert writing_bytes([row(value)]) <= INLINE_BYTES


@pytest.mark.parametrize(
    "value",
    [
        "a" * 10_000,
        list(range(10_000)),
        [[{"label": "cat", "score": 0.5}] * 10] * 100,
        {str(number): number for number in range(10_000)},
        {"nested": [list(range(100))] * 100},
        np.zeros(10_000, np.int8),
        np.array(["a"] * 10_000, object),
        Reply("a" * 10_000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_large_results_are_written_in_a_thread(value: Any) -> None:
    assert writing_bytes([row(value)]) > INLINE_BYTES


async def test_many_results_are_written_in_a_thread_and_refused_there() -> None:
    model = create_model(list, input={"type": "string"})
    found = await written(model, [row(1)] * 1000, lambda _: threading.current_thread())
    assert found is not threading.current_thread()
    too_large = {"a": np.zeros((100, 100_000), np.float32)}
    with pytest.raises(NotAcceptable, match="too large for text"):
        await written(model, [Row(too_large, index) for index in range(100)], len)
    model.close()


def test_arrays_are_no_work_where_they_pass_as_they_are() -> None:
    found = [Row({"a": np.zeros((1, 1_000_000))}, 0)]
    assert writing_bytes(found, "npy") == writing_bytes(found, "raw") == 0
    assert writing_bytes(found, "csv") > INLINE_BYTES


def test_deep_results_are_judged_in_no_time() -> None:
    value: Any = 1
    for _ in range(50):
        value = [value] * 8
    assert writing_bytes([row(value)]) > INLINE_BYTES


def test_what_is_too_large_for_text_is_refused() -> None:
    with pytest.raises(NotAcceptable, match="too large for text"):
        writing_bytes([Row({"a": np.zeros((1, 3_000_000))}, 0)])


async def test_large_results_are_freed_where_they_are_written() -> None:
    model = create_model(list, input={"type": "string"})
    freed_in: list[threading.Thread] = []
    wrote_in: list[threading.Thread] = []

    def write(rows: Sequence[Row]) -> int:
        wrote_in.append(threading.current_thread())
        return len(rows)

    def results() -> list[Row]:
        return [Row([[Traced(freed_in), "a" * 10_000]], 0)]

    gc.disable()
    try:
        assert await written(model, results(), write) == 1
        async with asyncio.timeout(5):
            while not freed_in:  # the thread may be a moment behind its answer
                await asyncio.sleep(0.001)
    finally:
        gc.enable()
    assert freed_in == wrote_in != [threading.current_thread()]
    model.close()
