"""From results to payloads: the representation that `Accept` asks for.

Rows that came out of one batch are written from the batch's own arrays: a `.npy` answer is a
header followed by those buffers, without a copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import numpy as np

from rayserve_app.codecs import csv, json, npy, raw
from rayserve_app.codecs.plain_values import (
    EXACT_IN_DOUBLE,
    as_numpy,
    exact_array,
    simplify,
    utf8,
    widened,
    with_text,
)
from rayserve_app.errors import (
    DecodeError,
    InvalidRequest,
    NotAcceptable,
    PredictError,
    ServingError,
)
from rayserve_app.media_types import ranked
from rayserve_app.settings.model import OutputCodec
from rayserve_app.types import Array, Buffer, Reply, Row, TensorSpec

MEDIA_TYPES: Final[Mapping[OutputCodec, str]] = {
    "json": "application/json",
    "csv": "text/csv",
    "npy": "application/x-npy",
    "raw": "application/octet-stream",
}


ONLY_OUTPUT: Final = "output"
"""The name of the one output of a model that names none."""

NUMBERS: Final = (bool, int, float, np.number, np.bool_, np.ndarray)

MAX_TEXT_BYTES: Final = 16_000_000
"""Arrays of so many bytes are written as JSON or CSV; larger ones would take many seconds."""


@lru_cache(maxsize=64)
def negotiate(accept: str | None, default: OutputCodec) -> Sequence[OutputCodec]:
    """Return the codecs that an `Accept` header allows (RFC 9110, section 12.5.1), the one to try
    first at first: by weight, then in the header's order, the model's own before others where
    anything will do. A codec has the weight of what names it most closely.

    Raises:
        NotAcceptable: none of them is known; the sentence lists the known.
    """
    if accept is None or accept in ("*/*", MEDIA_TYPES[default]) or not accept.strip():
        return (default,)
    codecs = ranked(accept, {default: MEDIA_TYPES[default], **MEDIA_TYPES})
    if not codecs:
        known = " or ".join(MEDIA_TYPES.values())
        raise NotAcceptable("No such representation", expected=known, got=repr(accept))
    return tuple(codecs)


def encode(rows: Sequence[Row], codec: OutputCodec, *, is_batch: bool) -> list[Buffer]:
    """Write results as one body.

    Args:
        rows: one per item, in the request's order.
        codec: `json` writes a value, or a list of them for a batch, where several named outputs
            make an object, and NaN and infinities are tokens; `csv` a line per item; `npy` one
            array, which for several named outputs is flat: output by output, item by item within
            each; `raw` the bytes alone.
        is_batch: whether one item's result still stands in a list.

    Raises:
        PredictError: the model's results have no such representation.
    """
    if codec == "json":
        values = [json_value(row) for row in rows]
        return [json.encode(values if is_batch else values[0], with_nan=True)]
    if codec == "csv":
        return [csv.encode(_flat_values(row) for row in rows).encode()]
    columns = _columns(rows)
    if codec == "npy":
        return _npy(columns, is_batch=is_batch)
    return [buffer for runs in columns.values() for array in runs for buffer in _raw(array)]


def named_arrays(rows: Sequence[Row]) -> dict[str, Array]:
    """Return results as one array per output, items along axis 0, for protocols that name outputs.

    Objects of a backend that names none are one output, ONLY_OUTPUT: numbers and arrays of one
    shape make an array of numbers, everything else an array of objects, (N,).

    Raises:
        PredictError: an output's arrays are not of one shape.
    """
    if isinstance(rows[0].outputs, Mapping):
        return {name: _joined(name, runs) for name, runs in _columns(rows).items()}
    values = [as_numpy(json_value(row)) for row in rows]
    if all(isinstance(value, NUMBERS) for value in values):
        try:
            return {ONLY_OUTPUT: exact_array(values)}
        except ValueError:
            pass
    objects = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        objects[index] = value
    return {ONLY_OUTPUT: objects}


def whole_columns(columns: Mapping[str, Array], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return columns with the outputs that have no batch axis as they are, once for all items.

    Raises:
        InvalidRequest: such an output is another one for each item.
    """
    found = dict(columns)
    for spec in specs:
        if spec.has_batch_axis or spec.name not in found:
            continue
        column = found[spec.name]
        is_float = column.dtype.kind in "fc"
        if not all(np.array_equal(each, column[0], equal_nan=is_float) for each in column[1:]):
            raise InvalidRequest(
                f"Output {spec.name!r} has no batch axis, and is not the same for all items",
                remedy="Send no more items than one batch has, of one shape.",
            )
        found[spec.name] = column[:1].reshape(column.shape[1:])
    return found


def flat_shapes(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return name, type and shape, items on axis 0, of each of the outputs that a flat `.npy`
    holds, in their order: without them a client that does not know the shapes could not take the
    outputs apart. Empty where one array is the whole result, or where items are of unlike shapes.
    """
    if not isinstance(rows[0].outputs, Mapping) or len(rows[0].outputs) < 2:
        return []
    columns = _columns(rows)
    if any(len({array.shape[1:] for array in runs}) > 1 for runs in columns.values()):
        return []
    return [
        {
            "name": name,
            "datatype": np.result_type(*runs).name,
            "shape": [len(rows), *runs[0].shape[1:]],
        }
        for name, runs in columns.items()
    ]


def text_bytes(rows: Sequence[Row], codec: OutputCodec) -> int:
    """Return how many bytes of arrays have to be written as text; `.npy` and raw cost nothing.

    Raises:
        NotAcceptable: more than MAX_TEXT_BYTES.
    """
    if codec not in ("json", "csv"):
        return 0
    total = 0
    for row in rows:
        if isinstance(row.outputs, Mapping):
            total += sum(array.nbytes // len(array) for array in row.outputs.values())
        elif isinstance(value := row.outputs[row.position], np.ndarray):
            total += value.nbytes
    if total > MAX_TEXT_BYTES:
        raise NotAcceptable(
            "The result is too large for text",
            expected=f"{MEDIA_TYPES['npy']} or {MEDIA_TYPES['raw']}",
            got=f"{total} bytes of arrays",
        )
    return total


def json_value(row: Row) -> Any:
    """Return what a result is in JSON: an object for several named outputs, else the value; of a
    whole reply its body, parsed if it is JSON, and bytes if it is not text."""
    value = row.value
    if isinstance(value, Reply):
        return value.body if value.text is None else _parsed(value.text)
    if isinstance(row.outputs, Mapping) and len(value) == 1:
        return next(iter(value.values()))
    return value


def _parsed(text: str) -> Any:
    try:
        return json.decode(text)
    except DecodeError:
        return text


def _flat_values(row: Row) -> list[Any]:
    value = row.value
    parts = value.values() if isinstance(row.outputs, Mapping) else [value]
    return [element for part in parts for element in with_text(_object_array([part])).ravel()]


def _columns(rows: Sequence[Row]) -> dict[str, list[Array]]:
    """Return per output the arrays that hold the rows in order, each with items on axis 0.

    Neighbours of one batch become one slice of its array."""
    first = rows[0].outputs
    if not isinstance(first, Mapping):
        return {"": [_object_array([row.value]) for row in rows]}
    breaks = [0]
    for position, (left, right) in enumerate(pairwise(rows), start=1):
        if left.outputs is not right.outputs or left.position + 1 != right.position:
            breaks.append(position)
    runs = [(rows[start], stop - start) for start, stop in pairwise([*breaks, len(rows)])]
    columns: dict[str, list[Array]] = {}
    for name in first:
        columns[name] = []
        for row, length in runs:
            assert isinstance(row.outputs, Mapping)
            columns[name].append(row.outputs[name][row.position : row.position + length])
    return columns


def _joined(name: str, runs: Sequence[Array]) -> Array:
    if len(runs) == 1:
        return runs[0]
    try:
        return np.concatenate(runs)
    except ValueError as exc:
        raise PredictError(f"Output {name!r} has results of unlike shapes: {exc}") from exc


def _object_array(values: list[Any]) -> Array:
    if isinstance(values[0], (bytes, bytearray, memoryview, str, Mapping)):  # numpy would iterate
        array = np.empty(1, dtype=object)
        array[0] = values[0]
        return array
    try:
        return exact_array(values)
    except ServingError:
        raise
    except Exception as exc:  # what foreign objects raise, and lists that are not rectangular
        got = f"type {type(values[0]).__qualname__}"
        raise PredictError("The result is not an array of one shape", got=got) from exc


def _npy(columns: Mapping[str, list[Array]], *, is_batch: bool) -> list[Buffer]:
    columns = {name: [_storable(array) for array in runs] for name, runs in columns.items()}
    arrays = [array for runs in columns.values() for array in runs]
    dtype = _common_type(arrays)
    shapes = {array.shape[1:] for array in arrays}
    count = sum(len(array) for array in next(iter(columns.values())))
    if len(columns) > 1:
        shape: tuple[int, ...] = (sum(array.size for array in arrays),)
    elif len(shapes) == 1:
        shape = (count, *shapes.pop()) if is_batch else arrays[0].shape[1:]
    else:
        raise PredictError(f"Results of unlike shapes {sorted(shapes)} make no one array")
    buffers: list[Buffer] = [npy.header(dtype, shape)]
    for array in arrays:
        buffers += _memory(array.astype(dtype, copy=False))
    return buffers


def _raw(array: Array) -> list[Buffer]:
    if array.dtype.kind in "SUO":
        return [raw.encode(array)]
    return _memory(array.astype(array.dtype.newbyteorder("="), copy=False))


def _memory(array: Array) -> list[Buffer]:
    if not array.size:
        return []
    # As numpy's own view, for not every type of number can be a buffer.
    return [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data]


def _storable(array: Array) -> Array:
    """Return an array as `.npy` can hold it: bfloat16 as float32, and text as numpy's own.

    Raises:
        PredictError: it is of other objects, or of text that numpy would cut.
    """
    if array.dtype.isbuiltin == 2:
        return widened(array)
    if array.dtype != object:
        return array
    values = [simplify(each) for each in array.reshape(-1).tolist()]
    if odd := [each for each in values if not isinstance(each, str | bytes)]:
        got = f"type {type(odd[0]).__qualname__}"
        raise PredictError(
            "The results are not arrays of numbers or text, so `.npy` cannot hold them", got=got
        )
    texts = [utf8(each) for each in values]
    # numpy gives every element the length of the longest one, and drops zeros at the end.
    if len(texts) * max(map(len, texts), default=0) * 4 > MAX_TEXT_BYTES:
        raise PredictError("The texts are too long for `.npy`")
    if any(text.endswith("\0") for text in texts):
        raise PredictError("`.npy` cannot hold a text that ends in a zero byte")
    return np.array(texts, dtype=np.str_).reshape(array.shape)


def _common_type(arrays: Sequence[Array]) -> np.dtype[Any]:
    """Return the type of one array that holds what all of these do.

    Raises:
        PredictError: there is none; the sentence names theirs.
    """
    try:
        dtype = np.result_type(*arrays)
    except TypeError as exc:
        raise _no_common_type(arrays) from exc
    for array in arrays:
        if array.dtype == dtype:
            continue
        if array.dtype.kind in "SU" and dtype.kind == array.dtype.kind:
            continue
        if dtype.kind in "SU" or (dtype.kind in "fc" and not _keeps_integers(array)):
            raise _no_common_type(arrays)
    return dtype


def _keeps_integers(array: Array) -> bool:
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8 or not array.size:
        return True
    return max(abs(int(array.min())), abs(int(array.max()))) <= EXACT_IN_DOUBLE


def _no_common_type(arrays: Sequence[Array]) -> PredictError:
    return PredictError(
        "The outputs make no one array without loss",
        got=", ".join(sorted({str(array.dtype) for array in arrays})),
        remedy="Ask for JSON, or choose among `outputs`.",
    )
