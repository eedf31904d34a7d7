"""Answers of TensorFlow Serving's REST API, to the byte.

Source: tensorflow/serving, util/json_tensor.cc. The layout is that of RapidJSON's PrettyWriter,
four spaces a level, whose `kFormatSingleLineArray` upstream turns on for the arrays within rows.
Results that TensorFlow does not have, objects and lists of unlike length, are written in the same
manner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from rayserve_app.codecs import base64, json
from rayserve_app.codecs.plain_values import simplify, text_of, with_text
from rayserve_app.codecs.tensorflow import numbers
from rayserve_app.errors import InvalidRequest, PredictError
from rayserve_app.types import Array

BYTES_SUFFIX: Final = "_bytes"
"""Strings of an output so named are bytes, `{"b64": ...}` (api_rest.md, "Output of binary
values")."""


def render_predictions(outputs: Mapping[str, Array]) -> bytes:
    """Write the answer to `instances`: an object per item for several outputs, else its value.

    Args:
        outputs: axis 0 counts the items; numbers, or objects for whatever JSON can hold.
    Raises:
        InvalidRequest: an output without such an axis, or of another length.
        PredictError: what JSON cannot hold.
    """
    _check_rows(outputs)
    outputs = _told(outputs)
    layout = _Layout(2, is_inline=True)
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        rows, separator, start = _items(array, layout.of(name)), b", ", b""
    else:
        columns = [_items(array, layout.inner.of(name)) for name, array in outputs.items()]
        rows = [
            layout.members(dict(zip(outputs, row, strict=True)))
            for row in zip(*columns, strict=True)
        ]
        separator, start = b"," + layout.line, layout.line
    listed = b"[%s%s\n    ]" % (start, separator.join(rows)) if rows else b"[]"
    return b'{\n    "predictions": %s\n}' % listed


def render_outputs(outputs: Mapping[str, Array]) -> bytes:
    """Write the answer to `inputs`: an object for several outputs, else the value.

    Args:
        outputs: arrays of any shape; numbers, or objects for whatever JSON can hold.
    Raises:
        PredictError: what JSON cannot hold.
    """
    outputs = _told(outputs)
    layout = _Layout(1, is_inline=False)
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        text = _array(array, layout.of(name))
    else:
        inner = layout.inner
        text = layout.members({name: _array(a, inner.of(name)) for name, a in outputs.items()})
    return b'{\n    "outputs": %s\n}' % text


def render_classifications(labels: Sequence[Sequence[str | bytes]], scores: Sequence[Any]) -> bytes:
    """Write the classes of each item: a label and a score for each."""
    counts = [len(row) for row in labels]
    flat = np.concatenate([np.asarray(row, np.float32).reshape(-1) for row in scores])
    texts = iter(numbers.write(flat)[1:-1].split(b","))
    rows = [
        b"[%s]" % b", ".join(b"[%s, %s]" % (_label(label), next(texts)) for label in row)
        for row, count in zip(labels, counts, strict=True)
    ]
    return b'{\n    "results": [%s\n    ]\n}' % b", ".join(rows)


def render_regressions(values: Array) -> bytes:
    """Write the value of each item, (N,) numbers."""
    text = numbers.write(np.asarray(values, np.float32), b", ")
    return b'{\n    "results": %s\n}' % text


def render_error(message: str) -> bytes:
    """Write an error's body (api_rest.md)."""
    return b'{ "error": %s }' % json.encode(message)


class _Layout(NamedTuple):
    """How a value is written that stands `level` levels deep."""

    level: int
    is_inline: bool
    as_bytes: bool = False

    def of(self, output: str) -> _Layout:
        """Return how an output of that name is written."""
        return self._replace(as_bytes=output.endswith(BYTES_SUFFIX))

    @property
    def inner(self) -> _Layout:
        if self.level > json.MAX_DEPTH:
            raise PredictError("A result is nested too deeply for JSON")
        return self._replace(level=self.level + 1)

    @property
    def line(self) -> bytes:
        """The start of a line at this level."""
        return b"\n" + b"    " * self.level

    def members(self, texts: Mapping[str, bytes]) -> bytes:
        """Write an object of values that are text already."""
        if not texts:
            return b"{}"
        line = self.inner.line
        written = (b"%s%s: %s" % (line, _string(name), text) for name, text in texts.items())
        return b"{%s%s}" % (b",".join(written), self.line)

    def elements(self, texts: Sequence[bytes]) -> bytes:
        """Write an array of values that are text already."""
        if not texts:
            return b"[]"
        if self.is_inline:
            return b"[%s]" % b", ".join(texts)
        line = self.inner.line
        return b"[%s%s%s]" % (line, (b"," + line).join(texts), self.line)


def _check_rows(outputs: Mapping[str, Array]) -> None:
    count: int | None = None
    for name, array in outputs.items():
        if not array.ndim:
            raise InvalidRequest(f"Tensor name: {name} has no shape information ")
        if count not in (None, len(array)):
            raise InvalidRequest(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {count}"
            )
        count = len(array)


def _items(array: Array, layout: _Layout) -> list[bytes]:
    """Write each item of an output, its arrays on one line."""
    if not _is_numbers(array):
        return [_value(item, layout) for item in array]
    # Only between items do that many brackets meet.
    start, end = b"[" * (array.ndim - 1), b"]" * (array.ndim - 1)
    items = numbers.write(array, b", ")[1 + len(start) : -1 - len(end)]
    return [b"%s%s%s" % (start, each, end) for each in items.split(end + b", " + start)]


def _array(array: Array, layout: _Layout) -> bytes:
    if not _is_numbers(array):
        if not array.ndim:
            return _value(array.item(), layout)
        return layout.elements([_value(item, layout.inner) for item in array])
    if layout.is_inline or not array.ndim:
        return numbers.write(array, b", ")
    return _lines(array, layout)


def _lines(array: Array, layout: _Layout) -> bytes:
    """Write nested arrays of numbers, an element a line."""
    lines = [layout.line]
    for _ in range(array.ndim):
        layout = layout.inner
        lines.append(layout.line)
    separator = b"," + lines[-1]
    text = numbers.write(array, separator)[array.ndim : -array.ndim]
    # Brackets that meet are a boundary of arrays, the more of them the farther out.
    for depth in range(1, array.ndim):
        count = array.ndim - depth
        text = text.replace(
            b"]" * count + separator + b"[" * count,
            _closing(lines[depth:-1]) + b"," + lines[depth] + _opening(lines[depth + 1 :]),
        )
    return _opening(lines[1:]) + text + _closing(lines[:-1])


def _opening(lines: Sequence[bytes]) -> bytes:
    return b"".join(b"[" + line for line in lines)


def _closing(lines: Sequence[bytes]) -> bytes:
    return b"".join(line + b"]" for line in reversed(lines))


def _told(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return outputs with times as text; of everything else it is known how it is written."""
    return {name: with_text(a) if a.dtype.kind == "M" else a for name, a in outputs.items()}


def _is_numbers(array: Array) -> bool:
    return array.dtype.kind not in "SUO" and array.size > 0


def _value(value: Any, layout: _Layout) -> bytes:
    """Write one JSON value."""
    if isinstance(value, str | bytes | bytearray | memoryview):
        return _text(value, layout)
    if isinstance(value, Mapping):
        inner, members = layout.inner, simplify(value)
        return layout.members({key: _value(member, inner) for key, member in members.items()})
    if isinstance(value, list | tuple):
        return _list(value, layout)
    if isinstance(value, np.ndarray):
        (array,) = _told({"": value}).values()
        return _array(array, layout)
    if isinstance(value, float | np.number | np.bool_):
        return numbers.write(np.asarray(value))
    if value is None or isinstance(value, int):
        return json.encode(value)
    return _value(simplify(value), layout)


def _list(values: Sequence[Any], layout: _Layout) -> bytes:
    if values and set(map(type, values)) == {float}:
        return _array(np.array(values), layout)
    inner = layout.inner
    return layout.elements([_value(value, inner) for value in values])


def _text(value: Any, layout: _Layout) -> bytes:
    """Write a string, or bytes; as `{"b64": ...}` if they are meant so, or are no text."""
    if isinstance(value, str) and not layout.as_bytes:
        return _string(value)
    data = value.encode() if isinstance(value, str) else bytes(value)
    if not layout.as_bytes:
        try:
            return _string(data.decode())
        except UnicodeDecodeError:
            pass
    return layout.members({"b64": _string(base64.encode(data))})


def _label(label: str | bytes) -> bytes:
    text = text_of(label) if isinstance(label, bytes) else str(label)
    return _string(text) if isinstance(text, str) else json.encode(text)


def _string(text: str) -> bytes:
    try:
        return orjson.dumps(text)
    except TypeError as exc:  # half of a surrogate pair
        raise PredictError(f"A result cannot be written as JSON: {exc}") from exc
