"""The items of a payload, and what reads them for one type and codec."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

import numpy as np

from rayserve_app.codecs import json, lenient_json
from rayserve_app.codecs.json_metadata import EncodedImage
from rayserve_app.errors import DecodeError, RequestTooLarge, ShapeMismatch
from rayserve_app.payloads.payload_limits import PayloadLimits
from rayserve_app.types import Array, Buffer, Item, describe

Encoded: TypeAlias = Item | EncodedImage
"""An item before it is decoded: an image is still encoded."""

TEXT_BYTES: Final = 16
"""So much text, or base64, is as quickly read as a byte of JSON."""

NPY_BYTES: Final = 16
"""What a byte of `.npy` takes to read, in bytes of JSON."""


class Payload(NamedTuple):
    """The items of one request; `is_batch` says whether a list was sent, if only of one."""

    items: Sequence[Encoded]
    is_batch: bool


def payload_of(items: Sequence[Encoded]) -> Payload:
    """Return what one value holds: one item, or as a stream many."""
    return Payload(items, len(items) > 1)


class Body(NamedTuple):
    """How bodies of one media type are read."""

    read: Callable[[Buffer], Payload]
    work_bytes: Callable[[Buffer], int]
    """How much there is to do, as `json.work_bytes` measures it."""


def no_work(body: Buffer) -> int:
    """Return what a body takes that passes as it is, as an encoded image does."""
    return 0


def text_work(body: Buffer) -> int:
    """Return what text, or base64, takes to read."""
    return len(body) // TEXT_BYTES


def npy_work(body: Buffer) -> int:
    """Return what `.npy` takes to read: small arrays are mostly header."""
    return len(body) * NPY_BYTES


class ItemReader(ABC):
    """Reads the items of one type, in one codec, from bodies, JSON values and Python's objects."""

    takes_tensors: ClassVar[bool] = False
    """Whether an item is an array, or several by name."""
    takes_images: ClassVar[bool] = False
    """Whether an item may be the bytes of an image file."""
    bodies: Mapping[str, Body]
    """By media type; by "" those without one, which are what the model declares."""

    def __init__(self, names: tuple[str, ...], limits: PayloadLimits) -> None:
        """
        Args:
            names: that the one input answers to, its type's the last; those of several inputs.
        """
        self.names = names
        self._limits = limits
        self._json = Body(self._read_json, json.work_bytes)

    @abstractmethod
    def read_value(self, value: Any) -> list[Encoded]:
        """Read one JSON value as one item, or as the many of a stream. `bytes` may stand where a
        protocol has its own form of them."""

    def read_at(self, value: Any, path: str) -> list[Encoded]:
        """Read one JSON value as `read_value` does; errors name its place."""
        try:
            return self.read_value(value)
        except (DecodeError, ShapeMismatch, RequestTooLarge) as exc:
            raise exc.at(path) if path else exc from exc.__cause__

    def read_values(self, value: Any, path: str) -> Payload:
        """Read a parsed JSON value: one item, or a list of items."""
        if not isinstance(value, list):
            return payload_of(self.read_at(value, path))
        self._limits.check_count(len(value))
        items: list[Encoded] = []
        for index, element in enumerate(value):
            items += self.read_at(element, f"{path}[{index}]")
        return Payload(items, True)

    def read_columns(self, columns: Mapping[str, Any], path: str) -> Payload:
        """Read named inputs, of which this model has one."""
        if len(columns) != 1 or not columns.keys() & set(self.names):
            raise ShapeMismatch(
                "Wrong input names", expected=str(list(self.names)), got=str(sorted(columns))
            )
        ((name, value),) = columns.items()
        return self.read_column(value, f"{path}.{name}" if path else name)

    def read_column(self, value: Any, path: str) -> Payload:
        """Read the items of the one input: a list, or an array whose axis 0 counts them."""
        if isinstance(value, np.ndarray):
            raise ShapeMismatch(
                "Not bytes", expected=self.names[-1], got=describe(value), path=path
            )
        return self.read_values(value, path)

    def read_object(self, value: Any) -> Encoded:
        """Read one item that a Python caller hands over."""
        items = self.read_value(value)
        if len(items) != 1:
            raise DecodeError("Not one item", expected="one image", got=str(len(items)))
        return items[0]

    def decode(self, encoded: Encoded, out: Array | None) -> Item:
        """Return the item that a model takes, in `out` where that can hold it."""
        assert not isinstance(encoded, EncodedImage)
        return encoded

    def _read_json(self, body: Buffer) -> Payload:
        return self.read_values(lenient_json.decode(bytes(body)), "")
