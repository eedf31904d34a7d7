"""Numbers as TensorFlow Serving writes them; the reference is `printf`, as upstream uses it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rayserve_app.codecs.tensorflow import numbers
from rayserve_app.codecs.tensorflow.numbers import BLOCK_SIZE, FEW, write
from rayserve_app.errors import PredictError

INF = float("inf")
NAN = float("nan")


def printed(value: Any) -> str:
    """Return what json_tensor.cc's WriteDecimal writes of a float32 or float64."""
    if np.isnan(value):
        return "NaN"
    if np.isinf(value):
        return "-Infinity" if value < 0 else "Infinity"
    text = f"{float(value):g}"
    with np.errstate(over="ignore"):
        is_same = type(value)(float(text)) == value
    if not is_same:
        text = f"{float(value):.{17 if type(value) is np.float64 else 9}g}"
    return text if "." in text or "e" in text else f"{text}.0"


def check(array: Any) -> None:
    """Compare the few with the reference, and many of them."""
    text = ",".join(map(printed, array))
    assert write(array).decode() == f"[{text}]"
    assert write(np.tile(array, FEW + 1)).decode() == f"[{','.join([text] * (FEW + 1))}]"


# json_tensor_test.cc, FromJsonSingleFloatTensorSixDigitPrecision and -NonFinite.
@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([[9000000, 999999, 0.5], [0.0003, 0.00003, 555557.5]], "9e+06 999999.0 0.5 0.0003 3e-05"),
        ([[NAN, INF], [3, -INF]], "NaN Infinity 3.0 -Infinity"),
    ],
)
def test_the_numbers_of_upstreams_tests(values: Any, text: str) -> None:
    written = write(np.array(values, np.float32)).decode()
    assert written.startswith("[[")
    flat = written.replace("[", "").replace("]", "").split(",")
    assert flat[: len(text.split())] == text.split()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(0.1), "0.1"),
        (np.float32(1 / 3), "0.333333343"),
        (np.float64(1 / 3), "0.33333333333333331"),
        (np.float32(-0.0), "-0.0"),
        (np.float32(1234567), "1234567.0"),
        (np.float32(2e9), "2e+09"),
        (np.float32(1.25e-6), "1.25e-06"),
        (np.float16(0.1), "0.0999755859"),
        (np.longdouble(0.1), "0.1"),
        (np.int8(-3), "-3"),
        (np.uint64(2**64 - 1), "18446744073709551615"),
        (np.bool_(True), "true"),
    ],
)
def test_a_number_alone(value: Any, text: str) -> None:
    assert write(np.asarray(value)).decode() == text


@settings(deadline=None)
@given(
    arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32))
    | arrays(np.float64, st.integers(1, 40), elements=st.floats())
)
def test_all_floats_are_written_as_printf_does(array: Any) -> None:
    check(array)


@settings(deadline=None)
@given(
    st.sampled_from([np.float32, np.float64]),
    st.lists(
        st.tuples(st.integers(-(10**10), 10**10), st.integers(-24, 4)), min_size=1, max_size=40
    ),
    st.sampled_from([-INF, 0.0, INF]),
)
def test_so_are_decimals_and_their_neighbours(
    dtype: Any, decimals: list[tuple[int, int]], towards: float
) -> None:
    """Where six or nine digits begin or cease to do, ties and powers of ten among them."""
    near = np.array([float(f"{digits}e{power}") for digits, power in decimals], dtype)
    check(np.nextafter(near, dtype(towards)) if towards else near)


@pytest.mark.parametrize(
    ("dtype", "powers"), [(np.float32, range(-45, 38)), (np.float64, range(-320, 308))]
)
def test_every_power_of_ten_and_its_neighbours(dtype: Any, powers: range) -> None:
    exact = np.array([float(f"{d}e{power}") for power in powers for d in (1, 5, 9.99999)], dtype)
    for array in (exact, np.nextafter(exact, dtype(0)), np.nextafter(exact, dtype(INF))):
        check(array)


def test_ties_go_to_even() -> None:
    """Where a float32 has ten digits of which the last is 5."""
    check(np.arange(2**19, 2**19 + 64, dtype=np.float32) + np.float32(0.0625))
    check(np.arange(1, 4001, 2, dtype=np.float32) / np.float32(2**15))


@pytest.mark.parametrize("shape", [(2, BLOCK_SIZE + 1), (3, 2, BLOCK_SIZE), (2 * BLOCK_SIZE + 5,)])
def test_large_arrays_are_one_document(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 4
    array[..., 1] = 1e-20
    assert np.array_equal(np.array(json.loads(write(array)), np.float32), array)


def test_the_layout_in_memory_is_of_no_concern() -> None:
    array = np.array([[0.5, 1e-7, NAN], [3, 4, 5e20]], np.float32)
    expected = b"[[0.5,1e-07,NaN],[3.0,4.0,5e+20]]"
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


def test_most_numbers_are_not_printed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "_print", None)
    rng = np.random.default_rng(0)
    write(rng.uniform(1e-4, 1e6, 10_000).astype(np.float32))
    write((10 ** rng.uniform(-12, -5.1, 10_000)).astype(np.float32))
    write(np.arange(1000) / 8)
