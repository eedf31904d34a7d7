"""Answers to requests as TensorFlow Serving's REST API writes them, to the byte.

Source: tensorflow/serving, util/json_tensor.cc; the layout is RapidJSON's PrettyWriter's.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from deployments.tensorflow_serving.status import invalid
from rayserve_app.types import Array


def render(outputs: Mapping[str, Array], *, is_row: bool) -> str:
    """Write the outputs of a call, as rows or as columns.

    Raises:
        StatusError: rows of outputs that have no batch axis, or of unlike lengths.
    """
    if not is_row:
        values = {name: _leaves(array, name) for name, array in sorted(outputs.items())}
        value = values if len(values) > 1 else next(iter(values.values()))
        return _write({"outputs": value}, 0, is_inline=False)
    columns = {name: _leaves(array, name) for name, array in sorted(outputs.items())}
    _check_rows(columns)
    if len(columns) == 1:
        rows = [_write(row, 2, is_inline=True) for row in next(iter(columns.values()))]
        listed = f"[{', '.join(rows)}\n    ]" if rows else "[]"
    else:
        count = len(next(iter(columns.values())))
        rows = [_write_row({n: column[i] for n, column in columns.items()}) for i in range(count)]
        listed = f"[\n        {(',' + chr(10) + ' ' * 8).join(rows)}\n    ]" if rows else "[]"
    return f'{{\n    "predictions": {listed}\n}}'


def render_classifications(labels: Array, scores: Array) -> str:
    """Write the classes of each example: (N, K) strings and (N, K) float32."""
    pairs = zip(_leaves(labels, "classes"), _leaves(scores, "scores"), strict=True)
    rows = [
        _write([list(pair) for pair in zip(*row, strict=True)], 2, is_inline=True) for row in pairs
    ]
    return f'{{\n    "results": [{", ".join(rows)}\n    ]\n}}'


def render_regressions(values: Array) -> str:
    """Write the value of each example: (N,) float32."""
    return f'{{\n    "results": [{", ".join(_decimals(values))}]\n}}'


def render_error(message: str) -> str:
    """Write an error's body."""
    return f'{{ "error": {json.dumps(message)} }}'


def _leaves(array: Array, name: str) -> Any:
    """Return an output as nested lists of JSON text."""
    if array.dtype == object:
        as_bytes = name.endswith("_bytes")
        texts = [_string(value, as_bytes=as_bytes) for value in array.ravel().tolist()]
    elif array.dtype.kind == "b":
        texts = ["true" if value else "false" for value in array.ravel().tolist()]
    elif array.dtype.kind in "iu":
        texts = list(map(str, array.ravel().tolist()))
    else:
        texts = _decimals(array.ravel())
    nested = np.empty(len(texts), object)
    nested[:] = texts
    return nested.reshape(array.shape).tolist()


def _decimals(values: Array) -> list[str]:
    """Write six digits where they are the number again, else as many as it takes; `.0` tells whole
    numbers from integers (json_tensor.cc, WriteDecimal)."""
    is_double = values.dtype == np.float64
    numbers = values.astype(np.float64 if is_double else np.float32)
    plain = numbers.tolist()
    texts = [f"{number:g}" for number in plain]
    with np.errstate(over="ignore"):
        back = np.array(list(map(float, texts)), numbers.dtype)
    for index in np.flatnonzero((back != numbers) & np.isfinite(numbers)).tolist():
        texts[index] = f"{plain[index]:.{17 if is_double else 9}g}"
    special = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    return [
        special.get(text) or (text if "." in text or "e" in text else f"{text}.0") for text in texts
    ]


def _string(value: Any, *, as_bytes: bool) -> Any:
    data = value.encode() if isinstance(value, str) else bytes(value)
    if as_bytes:
        return {"b64": json.dumps(base64.b64encode(data).decode())}
    return json.dumps(data.decode(errors="replace"), ensure_ascii=False)


def _check_rows(columns: Mapping[str, Any]) -> None:
    count: int | None = None
    for name, column in columns.items():
        if not isinstance(column, list):
            raise invalid(f"Tensor name: {name} has no shape information ")
        if count is not None and len(column) != count:
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {len(column)} expecting: {count}"
            )
        count = len(column)


def _write_row(row: Mapping[str, Any]) -> str:
    members = [f"{' ' * 12}{json.dumps(n)}: {_write(v, 3, is_inline=True)}" for n, v in row.items()]
    return "{\n" + ",\n".join(members) + "\n        }"


def _write(value: Any, level: int, *, is_inline: bool) -> str:
    """Write nested lists and objects of texts as RapidJSON's PrettyWriter does, four spaces a
    level; inline, arrays take one line."""
    if isinstance(value, str):
        return value
    indent, outer = "    " * (level + 1), "    " * level
    if isinstance(value, dict):
        members = [
            f"{indent}{json.dumps(name)}: {_write(member, level + 1, is_inline=is_inline)}"
            for name, member in value.items()
        ]
        return "{\n" + ",\n".join(members) + f"\n{outer}}}"
    elements = [_write(element, level + 1, is_inline=is_inline) for element in value]
    if not elements:
        return "[]"
    if is_inline:
        return f"[{', '.join(elements)}]"
    return "[\n" + ",\n".join(indent + element for element in elements) + f"\n{outer}]"
