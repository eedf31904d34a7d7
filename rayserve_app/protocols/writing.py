"""Where results are written: at once in the event loop, or in a thread if that takes long."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar

import numpy as np

from rayserve_app.inference.batcher import Result
from rayserve_app.inference.model import INLINE_BYTES, Model
from rayserve_app.payloads.outputs import text_bytes
from rayserve_app.settings.model import OutputCodec
from rayserve_app.types import Reply, Row

R = TypeVar("R", bound=Result)
T = TypeVar("T")

MANY_RESULTS: Final = 32
"""More are work enough for a thread, whatever they hold."""

ELEMENT_BYTES: Final = 4
VALUE_BYTES: Final = 16
"""What an element of an array takes to write as JSON, and a value of Python's, in the measure of
`json.work_bytes`."""

TEXTS: Final = ("json", "csv")
"""What arrays and bytes are written as at a price."""

CSV_WEIGHT: Final = 4
"""How much longer CSV takes."""

SAMPLES: Final = 4
SAMPLED_DEPTH: Final = 3
MOST_DEPTH: Final = 64
"""Of a collection so many elements are looked at, of deeper ones the first, of the deepest none."""


async def written(
    model: Model,
    results: Sequence[R],
    write: Callable[[Sequence[R]], T],
    work_bytes: Callable[[Sequence[R]], int] | None = None,
) -> T:
    """Return what writing the results gives.

    Large results are written in a thread and, where nobody else keeps them, freed there too.

    Args:
        work_bytes: returns how much work it is, or refuses the results; `writing_bytes`, as JSON,
            if None.
    """
    work_bytes = work_bytes or writing_bytes
    if len(results) > MANY_RESULTS:
        writing = model.offload(partial(_write, results, write, work_bytes), INLINE_BYTES + 1)
    else:
        writing = model.offload(partial(write, results), work_bytes(results))
    del results
    return await writing


def _write(
    results: Sequence[R],
    write: Callable[[Sequence[R]], T],
    work_bytes: Callable[[Sequence[R]], int],
) -> T:
    work_bytes(results)  # which raises what refuses them
    return write(results)


def writing_bytes(results: Sequence[Result], codec: OutputCodec = "json") -> int:
    """Return how much work it is to write results, as `json.work_bytes` measures it.

    Raises:
        NotAcceptable: arrays too large to be written as text.
    """
    rows = [result for result in results if isinstance(result, Row)]
    array_text = text_bytes(rows, codec)
    total = 0
    for row in rows:
        if not isinstance(row.outputs, Mapping):
            value = row.outputs[row.position]
            if codec in TEXTS or not isinstance(value, bytes | np.ndarray):
                total += _weight(value)
        elif array_text:
            total += sum(_weight(array[row.position]) for array in row.outputs.values())
    return total * CSV_WEIGHT if codec == "csv" else total


def _weight(value: Any, depth: int = 0) -> int:
    """Return what a value takes to write, of collections judged by a few of their elements."""
    if isinstance(value, int | float):
        return VALUE_BYTES
    if isinstance(value, list | tuple):
        return _weight_of_all([*value[: SAMPLES - 1], *value[-1:]], len(value), depth)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return ELEMENT_BYTES * value.size
    if isinstance(value, np.ndarray):
        return _weight_of_all(value.reshape(-1)[:SAMPLES].tolist(), value.size, depth)
    if isinstance(value, Reply):
        return len(value.body)
    if isinstance(value, str | bytes):
        return VALUE_BYTES + len(value)
    if isinstance(value, Mapping):
        return _weight_of_all([*islice(value.values(), SAMPLES)], 2 * len(value), depth)
    return VALUE_BYTES


def _weight_of_all(sample: Sequence[Any], count: int, depth: int) -> int:
    if depth >= SAMPLED_DEPTH:
        sample = sample[: 1 if depth < MOST_DEPTH else 0]
    weights = [_weight(each, depth + 1) for each in sample]
    return VALUE_BYTES + sum(weights) * count // max(len(weights), 1)
