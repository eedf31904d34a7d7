"""Comma-separated values, RFC 4180, in UTF-8.

Line ends may be CRLF, LF or CR; blank lines and a byte order mark are skipped.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rayserve_app.codecs.plain_values import simplify, utf8
from rayserve_app.errors import DecodeError, PredictError
from rayserve_app.types import Buffer


def decode(data: Buffer | str) -> list[list[float | str]]:
    """Decode into rows of fields: those that read as a number (or nan, inf) as float.

    Raises:
        DecodeError: Not UTF-8, a NUL, misplaced quotes, or a field of more than
            `csv.field_size_limit()` characters.
    """
    try:
        text = data if isinstance(data, str) else str(data, "utf-8")
    except UnicodeDecodeError as exc:
        raise DecodeError(f"CSV is not UTF-8: {exc.reason} at offset {exc.start}") from exc
    if "\0" in text:
        raise DecodeError(f"CSV has a NUL at offset {text.index(chr(0))}")
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        return [[_number(field) for field in row] for row in reader if row]
    except csv.Error as exc:
        raise DecodeError(f"not CSV: {exc} in line {reader.line_num}") from exc


def encode(rows: Iterable[Iterable[Any]]) -> str:
    r"""Encode rows of scalars, each line ended by "\n".

    Floats are written in the shortest form that their own type reads back; those of half precision
    with the digits of float32, which say exactly what they are. Bytes are the text that they hold.

    Raises:
        PredictError: A row that is not one, or a field that is no scalar, or is not text.
    """
    lines = _Lines()
    writer = csv.writer(lines)
    try:
        writer.writerows(map(_scalars, rows))
    except (TypeError, csv.Error) as exc:
        raise PredictError(f"a result cannot be written as CSV: {exc.__cause__ or exc}") from exc
    return "".join(lines)


_NUMBERS = frozenset({int, float, bool, np.float32, np.float64, np.int32, np.int64, np.uint8})


class _Lines(list[str]):
    r"""What `csv.writer` writes, with "\n" for its "\r\n".

    Told to write "\n" itself, it would not quote a field that holds a "\r".
    """

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


def _number(field: str) -> float | str:
    # float() would also read 1_000, and digits of every script.
    if "_" in field or not field.isascii():
        return field
    try:
        return float(field)
    except ValueError:
        return field


def _scalars(row: Iterable[Any]) -> Iterator[Any]:
    if isinstance(row, str | bytes):
        raise TypeError(f"a row of type {type(row).__name__}")
    for field in row:
        yield field if type(field) in _NUMBERS else _text_field(field)


def _text_field(field: Any) -> Any:
    field = simplify(field)
    if isinstance(field, str | bytes):
        return utf8(field)
    if not isinstance(field, int | float | np.number | np.bool_ | None):
        raise TypeError(f"a field of type {type(field).__name__}")
    return field
