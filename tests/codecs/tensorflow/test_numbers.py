"""Numbers in TensorFlow Serving's JSON: what clients read is what the model gave."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rayserve_app.codecs.tensorflow.numbers import BLOCK_SIZE, write
from rayserve_app.errors import PredictError

INF = float("inf")
NAN = float("nan")


def read(text: bytes, dtype: Any) -> Any:
    """Return what a client makes of it: Python's JSON takes upstream's three tokens."""
    return np.array(json.loads(text), dtype)


# json_tensor_test.cc, FromJsonSingleFloatTensorSixDigitPrecision and -NonFinite.
@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([[999999, 0.5], [0.0003, 555557.5]], "[[999999.0,0.5],[0.0003,555557.5]]"),
        ([[NAN, INF], [3, -INF]], "[[NaN,Infinity],[3.0,-Infinity]]"),
    ],
)
def test_the_numbers_of_upstreams_tests(values: Any, text: str) -> None:
    assert write(np.array(values, np.float32)).decode() == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(0.1), "0.1"),
        (np.float32(1 / 3), "0.33333334"),
        (np.float64(1 / 3), "0.3333333333333333"),
        (np.float32(-0.0), "-0.0"),
        (np.float32(1234567), "1234567.0"),
        (np.float32(1.25e-9), "1.25e-9"),
        (np.float16(0.1), "0.099975586"),
        (np.longdouble(0.1), "0.1"),
        (np.int8(-3), "-3"),
        (np.uint64(2**64 - 1), "18446744073709551615"),
        (np.bool_(True), "true"),
        (np.float32(NAN), "NaN"),
    ],
)
def test_a_number_alone(value: Any, text: str) -> None:
    """Numpy prints the fewest digits that only the one float has as well."""
    assert write(np.asarray(value)).decode() == text


@given(
    arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32))
    | arrays(np.float64, st.integers(1, 40), elements=st.floats())
)
def test_all_floats_are_the_same_when_they_are_read(array: Any) -> None:
    back = read(write(array), array.dtype)
    assert np.array_equal(back, array, equal_nan=True)
    assert np.array_equal(np.signbit(back), np.signbit(array) & ~np.isnan(array))


@pytest.mark.parametrize("shape", [(2, BLOCK_SIZE + 1), (3, 2, BLOCK_SIZE), (2 * BLOCK_SIZE + 5,)])
def test_large_arrays_are_one_document(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 4
    array[..., 1] = 1e-20
    array[..., 2] = NAN
    assert np.array_equal(read(write(array), np.float32), array, equal_nan=True)


def test_the_layout_in_memory_is_of_no_concern() -> None:
    array = np.array([[0.5, 1e-7, NAN], [3, 4, 5e20]], np.float32)
    expected = b"[[0.5,1e-7,NaN],[3.0,4.0,5e+20]]"
    assert write(array) == expected
    assert write(np.asfortranarray(array)) == expected
    assert write(array.astype(">f4")) == expected
    assert write(np.repeat(array, 2, axis=1)[:, ::2]) == expected


def test_empty_arrays_keep_their_shape() -> None:
    assert write(np.zeros((2, 0), np.float32)) == b"[[],[]]"
    assert write(np.zeros((0, 2), np.float32)) == b"[]"


@pytest.mark.parametrize("dtype", [np.complex64, "U3", "M8[s]"])
def test_what_is_no_number_is_refused(dtype: Any) -> None:
    with pytest.raises(PredictError, match="Failed to write JSON value for tensor type"):
        write(np.zeros(2, dtype))
