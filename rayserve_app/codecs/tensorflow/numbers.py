"""Arrays of numbers as JSON text, with the digits that TensorFlow Serving writes.

Source: tensorflow/serving, util/json_tensor.cc, WriteDecimal: `%g`, which is six digits, where that
is the same number again, else `max_digits10` digits, 9 or 17; whole numbers get `.0`; `NaN`,
`Infinity` and `-Infinity` are tokens. Printing a number so takes half a microsecond. orjson takes a
tenth of that, and writes the shortest decimal that only the one double has: of the double next to a
decimal of nine digits, that is the decimal itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, zip_longest
from typing import Any, Final, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from rayserve_app.errors import PredictError
from rayserve_app.types import Array

BLOCK_SIZE: Final = 1 << 15
"""Numbers that are written at one go, with the GIL held for some milliseconds."""

FEW: Final = 32
"""So many numbers are printed in less time than the rest takes to begin."""

Doubles: TypeAlias = NDArray[np.float64]

_PLAIN_FROM: Final = 1e-4
"""From here to 1e6, or 1e9 with nine digits, `%g` and orjson write plain decimals."""

_TINY_FROM: Final = 1e-13
_TINY_TO: Final = 1e-5
"""Between these `%g` and orjson write an exponent. Smaller numbers scale to whole ones by powers of
ten that no double holds."""

_LEAST_EXPONENT: Final = -13
_POWERS: Final = np.array([float(f"1e{exponent}") for exponent in range(_LEAST_EXPONENT, 23)])

_NEAR_TIE: Final = 1e-6
"""A scaled number so near to half a unit may have been rounded there."""

_SPECIAL: Final = {b"nan": b"NaN", b"inf": b"Infinity", b"-inf": b"-Infinity"}


def write(array: Array, separator: bytes = b",") -> bytes:
    """Return an array as nested JSON arrays; one without axes as the number alone.

    Args:
        array: booleans, integers or floats of any size and layout.
        separator: what stands between elements, and between arrays.
    Raises:
        PredictError: it is of another type.
    """
    array = _native(array)
    if not array.ndim:
        return write(array.reshape(1))[1:-1]
    return b"".join(_blocks(np.ascontiguousarray(array), separator))


def _native(array: Array) -> Array:
    """Return the array as bool, an integer type, float32 or float64."""
    dtype = array.dtype
    if dtype == np.float16 or dtype.name == "bfloat16":
        return array.astype(np.float32)
    if dtype.kind == "f" and dtype.itemsize > 8:
        return array.astype(np.float64)
    if dtype.kind not in "biuf":
        raise PredictError(f"Failed to write JSON value for tensor type: {dtype}")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _blocks(array: Array, separator: bytes) -> Iterator[bytes]:
    """Write an array piece by piece, so that other threads get to run in between."""
    if array.size <= BLOCK_SIZE:
        yield _write_block(array).replace(b",", separator)
        return
    step = max(1, BLOCK_SIZE * len(array) // array.size)
    for start in range(0, len(array), step):
        yield separator if start else b"["
        if step == 1 and array.ndim > 1:
            yield from _blocks(array[start], separator)
        else:
            block = _write_block(array[start : start + step])
            yield block[1:-1].replace(b",", separator)
    yield b"]"


def _write_block(array: Array) -> bytes:
    if array.dtype.kind != "f":
        return _dump(array)
    if array.size <= FEW:
        doubles = np.full(array.shape, np.nan)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            doubles = _shortest(array)
    text = _dump(doubles)
    if b"e-" in text:
        for exponent in b"6789":  # of those down to -13 no other one begins so
            text = text.replace(b"e-%c" % exponent, b"e-0%c" % exponent)
    is_printed = np.isnan(doubles)
    if not is_printed.any():
        return text
    # orjson writes NaN as null.
    pieces = zip_longest(text.split(b"null"), _print(array[is_printed]), fillvalue=b"")
    return b"".join(chain.from_iterable(pieces))


def _dump(array: Array) -> bytes:
    return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)


def _shortest(array: Array) -> Doubles:
    """Return the doubles whose shortest decimals are the ones wanted, NaN for numbers that have to
    be printed one by one."""
    doubles = array.astype(np.float64, copy=False)
    sizes = np.abs(doubles)
    is_tiny = (sizes >= _TINY_FROM) & (sizes < _TINY_TO)
    in_range = is_tiny | (sizes >= _PLAIN_FROM) & (sizes < 1e9)
    exponents = np.searchsorted(_POWERS, np.where(in_range, sizes, 1.0), side="right")
    exponents += _LEAST_EXPONENT - 1
    six, _ = _round(doubles, exponents, 6)
    is_six = six.astype(array.dtype) == array
    is_wanted = is_six & in_range & (is_tiny | (np.abs(six) < 1e6)) & _keeps_side(six, is_tiny)
    result = np.where(is_wanted | (sizes == 0), six, np.nan)
    if array.dtype == np.float64:
        return result  # `%.17g` is no shortest decimal
    nine, is_tie = _round(doubles, exponents, 9)
    is_sure = ~(is_tiny & is_tie)
    is_wanted = ~is_six & in_range & is_sure & (np.abs(nine) < 1e9) & _keeps_side(nine, is_tiny)
    return np.where(is_wanted, nine, result)


def _round(doubles: Doubles, exponents: NDArray[Any], digits: int) -> tuple[Doubles, NDArray[Any]]:
    """Return the doubles next to decimals of so many digits, and where there was a tie or nearly.

    Digits and powers of ten are doubles, so that their quotients are the doubles next to the
    decimals (IEEE 754, 5.4.1). Products of a float32 and a power up to 1e12 are exact, ties to even
    too; those of tiny numbers are wrong by less than `_NEAR_TIE`.
    """
    powers = _POWERS[digits - 1 - exponents - _LEAST_EXPONENT]
    scaled = doubles * powers
    whole = np.rint(scaled)
    return whole / powers, np.abs(np.abs(scaled - whole) - 0.5) <= _NEAR_TIE


def _keeps_side(rounded: Doubles, is_tiny: NDArray[Any]) -> NDArray[Any]:
    """Return where rounding did not lead from numbers with an exponent to plain ones."""
    return ~is_tiny | (np.abs(rounded) < _TINY_TO)


def _print(numbers: Array) -> list[bytes]:
    """Write float32 or float64 one by one."""
    texts = _format(b"%g ", numbers)
    with np.errstate(over="ignore"):
        back = np.array(list(map(float, texts))).astype(numbers.dtype)
    is_rounded = (back != numbers) & np.isfinite(numbers)
    precise = b"%.17g " if numbers.dtype == np.float64 else b"%.9g "
    for index, text in zip(
        np.flatnonzero(is_rounded).tolist(), _format(precise, numbers[is_rounded]), strict=True
    ):
        texts[index] = text
    return [text if b"." in text or b"e" in text else _with_point(text) for text in texts]


def _format(pattern: bytes, numbers: Array) -> list[bytes]:
    return (pattern * len(numbers) % tuple(numbers.tolist())).split()


def _with_point(text: bytes) -> bytes:
    return _SPECIAL.get(text) or text + b".0"
