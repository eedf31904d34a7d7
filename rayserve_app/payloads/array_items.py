"""Reads the items of models of arrays: of one input, or of several by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rayserve_app.codecs import csv, npy
from rayserve_app.errors import DecodeError, ShapeMismatch
from rayserve_app.media_types import CSV, JSON, NPY
from rayserve_app.payloads.items import Body, Encoded, ItemReader, Payload, npy_work
from rayserve_app.payloads.payload_limits import PayloadLimits
from rayserve_app.payloads.tensor_inputs import TensorInputs
from rayserve_app.types import Buffer

CSV_BYTES: Final = 8
"""What a byte of CSV takes to read, in bytes of JSON."""


class Arrays(ItemReader):
    """Reads arrays of the one input: a vector or a tensor each."""

    takes_tensors = True

    def __init__(
        self, names: tuple[str, ...], limits: PayloadLimits, tensors: TensorInputs
    ) -> None:
        super().__init__(names, limits)
        self._tensors = tensors
        self.bodies = {
            "": self._json,
            JSON: self._json,
            CSV: Body(self._read_csv, lambda body: len(body) * CSV_BYTES),
            NPY: Body(lambda body: Payload(*tensors.split(npy.decode(body), "")), npy_work),
        }

    def read_value(self, value: Any) -> list[Encoded]:
        return [self._tensors.one(value)]

    def read_values(self, value: Any, path: str) -> Payload:
        return Payload(*self._tensors.nested(value, path))

    def read_column(self, value: Any, path: str) -> Payload:
        return Payload(*self._tensors.column(value, path))

    def _read_csv(self, body: Buffer) -> Payload:
        items: list[Encoded] = []
        for index, row in enumerate(csv.decode(body)):
            try:
                items.append(self._tensors.row(row))
            except (DecodeError, ShapeMismatch) as exc:
                raise exc.at(f"rows[{index}]") from exc.__cause__
        return Payload(items, True)


class NamedArrays(ItemReader):
    """Reads mappings of input name to array."""

    takes_tensors = True

    def __init__(
        self, names: tuple[str, ...], limits: PayloadLimits, tensors: TensorInputs
    ) -> None:
        super().__init__(names, limits)
        self._tensors = tensors
        self.bodies = {"": self._json, JSON: self._json}

    def read_value(self, value: Any) -> list[Encoded]:
        return [self._tensors.mapping(value)]

    def read_columns(self, columns: Mapping[str, Any], path: str) -> Payload:
        items = self._tensors.rows_of(columns, path)
        self._limits.check_count(len(items))
        return Payload(items, True)
