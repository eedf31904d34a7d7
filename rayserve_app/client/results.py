"""From answers to numpy: which form to ask for, and the items of many answers as one result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal, TypeAlias

import numpy as np

from rayserve_app.client.answers import Answer
from rayserve_app.client.description import Description
from rayserve_app.client.errors import UnexpectedAnswer
from rayserve_app.client.parts import Part
from rayserve_app.codecs import json
from rayserve_app.errors import DecodeError
from rayserve_app.media_types import JSON, NPY, OCTETS, OUTPUTS
from rayserve_app.types import Array, TensorSpec, describe

Form: TypeAlias = Literal["npy", "json"]

Rows: TypeAlias = Array | dict[str, Array] | list[Any]
"""Results of many items: an array or one per output, items on axis 0, or a list of objects."""


class Results:
    """The results of one prediction."""

    def __init__(self, description: Description, form: Form | None = None) -> None:
        """
        Args:
            form: what the caller wants; what suits the model's outputs if None.
        """
        chooses = form is None
        self._is_npy = form == "npy" or (
            chooses and (description.answers_arrays or description.output_codec == "npy")
        )
        self._is_raw = chooses and not description.outputs and description.output_codec == "raw"

    @property
    def accept(self) -> str:
        """The media type to ask for."""
        if self._is_raw:
            return OCTETS
        return NPY if self._is_npy else JSON

    @property
    def is_one_by_one(self) -> bool:
        """Whether an answer holds one result only, because bytes cannot be told apart."""
        return self._is_raw

    def read(self, answer: Answer, part: Part) -> Rows:
        """Return the results of a part's items, one for each.

        Raises:
            UnexpectedAnswer: not so many results, or none of the model's shapes.
        """
        value = answer.value()
        if isinstance(value, np.ndarray):
            if (header := answer.headers.get(OUTPUTS)) is not None:
                return _split(value, part, header)
            rows: Rows = value if part.is_batch else value[np.newaxis]
        else:
            rows = value if part.is_batch and not isinstance(value, bytes | str) else [value]
        if not isinstance(rows, list | np.ndarray) or _count(rows) != part.item_count:
            raise UnexpectedAnswer(
                "Wrong number of results",
                expected=str(part.item_count),
                got=_described(rows),
            )
        return rows


def join(parts: Sequence[Rows]) -> Rows:
    """Return the results of consecutive parts as one; a list of the items' results where their
    shapes are unlike."""
    if len(parts) == 1:
        return parts[0]
    arrays = [rows for rows in parts if isinstance(rows, np.ndarray)]
    if len(arrays) == len(parts) and _are_alike(arrays):
        return np.concatenate(arrays)
    named = [rows for rows in parts if isinstance(rows, dict)]
    if len(named) == len(parts):
        columns = {name: [rows[name] for rows in named] for name in named[0]}
        if all(_are_alike(column) for column in columns.values()):
            return {name: np.concatenate(column) for name, column in columns.items()}
    return [item(rows, index) for rows in parts for index in range(_count(rows))]


def item(rows: Rows, index: int) -> Any:
    """Return one item's result: an array, of no axes for a number, one per output, or an object."""
    if isinstance(rows, dict):
        return {name: array[index, ...] for name, array in rows.items()}
    return rows[index, ...] if isinstance(rows, np.ndarray) else rows[index]


def _are_alike(arrays: Sequence[Array]) -> bool:
    return len({(array.shape[1:], array.dtype) for array in arrays}) == 1


def _count(rows: Rows) -> int:
    if isinstance(rows, dict):
        return len(next(iter(rows.values())))
    return len(rows) if not isinstance(rows, np.ndarray) or rows.ndim else -1


def _described(rows: Any) -> str:
    if isinstance(rows, np.ndarray):
        return describe(rows)
    return str(len(rows)) if isinstance(rows, list) else type(rows).__name__


def _split(flat: Array, part: Part, header: str) -> dict[str, Array]:
    """Return the outputs of one flat array as its header says: output by output, item by item
    within each."""
    try:
        specs = [
            TensorSpec(each["name"], each["datatype"], tuple(each["shape"]))
            for each in json.decode(header)
        ]
        sizes = [math.prod(spec.shape) for spec in specs]
        if flat.shape != (sum(sizes),) or {spec.shape[0] for spec in specs} != {part.item_count}:
            raise UnexpectedAnswer("Not the outputs of its header", got=describe(flat))
        bounds = pairwise(accumulate(sizes, initial=0))
        return {
            spec.name: flat[start:stop].reshape(spec.shape).astype(spec.dtype, copy=False)
            for spec, (start, stop) in zip(specs, bounds, strict=True)
        }
    except (DecodeError, KeyError, TypeError, ValueError, IndexError) as exc:
        raise UnexpectedAnswer(f"Not a header of outputs: {exc}", got=repr(header)) from exc
