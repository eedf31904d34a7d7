"""The Open Inference Protocol's tensors. Binary forms: tritonclient.utils, where it has one."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rayserve_app.codecs.open_inference_tensor import (
    DTYPES,
    as_objects,
    check_datatype,
    check_shape,
    datatype_of,
    elements_from_binary,
    elements_from_json,
    numbers_from_binary,
    numbers_from_json,
    to_binary,
    to_json,
)
from rayserve_app.errors import DecodeError, PredictError

NUMBERS = [datatype for datatype in DTYPES if datatype not in ("BYTES", "BF16")]

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@pytest.mark.parametrize("datatype", NUMBERS)
def test_numbers_survive_both_forms(datatype: str) -> None:
    @settings(derandomize=True, deadline=None, max_examples=40, database=None)
    @given(arrays.arrays(DTYPES[datatype], SHAPES))
    def check(array: Any) -> None:
        assert datatype_of(array) == datatype
        binary = numbers_from_binary(to_binary(array), datatype, array.shape)
        np.testing.assert_array_equal(binary, array)
        assert binary.dtype == array.dtype
        if datatype != "FP16":
            text = numbers_from_json(to_json(array).tolist(), datatype, array.shape)
            np.testing.assert_array_equal(text, array)
            np.testing.assert_array_equal(
                numbers_from_json(array.tolist(), datatype, array.shape), array
            )

    check()


@settings(derandomize=True, deadline=None, max_examples=60, database=None)
@given(st.lists(st.binary(max_size=5), max_size=6))
def test_elements_of_bytes_survive(values: list[bytes]) -> None:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    elements = elements_from_binary(to_binary(array), (len(values), 1))
    assert [bytes(each) for each in elements] == values
    assert as_objects(elements, (len(values), 1)).ravel().tolist() == values


@settings(derandomize=True, deadline=None, max_examples=100, database=None)
@given(
    st.binary(max_size=40),
    st.sampled_from(list(DTYPES)),
    st.lists(st.integers(0, 4) | st.just(2**40), max_size=3),
)
def test_any_bytes_are_a_tensor_or_refused(data: bytes, datatype: str, shape: list[int]) -> None:
    try:
        checked = check_shape(shape, datatype)
        if datatype == "BYTES":
            assert len(elements_from_binary(data, checked)) == np.prod(shape)
        else:
            assert numbers_from_binary(data, datatype, checked).shape == checked
    except DecodeError:
        return


def test_the_forms_are_triton_clients() -> None:
    utils = pytest.importorskip("tritonclient.utils")
    texts = np.array([["a", "größe"], ["", "\0b"]], dtype=object)
    assert bytes(to_binary(texts)) == utils.serialize_byte_tensor(texts).item()
    encoded = utils.serialize_byte_tensor(texts).item()
    elements = elements_from_binary(encoded, (2, 2))
    assert as_objects(elements, (2, 2)).tolist() == [
        [b"a", "größe".encode()],
        [b"", b"\0b"],
    ]
    floats = np.array([1.5, -2.25, 3e10], np.float32)
    blob = utils.serialize_bf16_tensor(floats).item()
    np.testing.assert_array_equal(
        numbers_from_binary(blob, "BF16", (3,)), np.ravel(utils.deserialize_bf16_tensor(blob))
    )
    for datatype in NUMBERS:
        assert np.dtype(DTYPES[datatype]) == np.dtype(utils.triton_to_np_dtype(datatype))


def test_numbers_are_not_copied() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.shares_memory(np.frombuffer(to_binary(array), np.uint8), array)
    body = bytearray(3) + array.tobytes()
    view = numbers_from_binary(memoryview(body)[3:], "FP32", (3, 4))
    assert np.shares_memory(view, np.frombuffer(body, np.uint8))
    assert not view.flags.writeable
    (element,) = elements_from_binary(b"\1\0\0\0a", (1,))
    assert isinstance(element, memoryview)


def test_any_layout_is_written_little_endian_and_row_major() -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    expected = np.arange(6, dtype="<f4").reshape(2, 3)
    assert bytes(to_binary(array)) == expected.tobytes()
    assert bytes(to_binary(expected.T)) == expected.T.copy().tobytes()
    assert to_json(expected.T).tolist() == [0, 3, 1, 4, 2, 5]


def test_strings_may_be_nested() -> None:
    assert elements_from_json([["a"], "b", [["c"]]], (3,)) == ["a", "b", "c"]
    with pytest.raises(DecodeError, match="expected str, got int"):
        elements_from_json([1], (1,))


def test_bytes_that_are_no_bool_are_true() -> None:
    array = numbers_from_binary(b"\0\1\2\xff", "BOOL", (4,))
    assert array.dtype == bool
    assert list(array) == [False, True, True, True]


def test_objects_are_json_texts() -> None:
    array = np.empty(4, dtype=object)
    array[:] = [{"a": [1, None]}, "x", b"y", 1.5]
    assert to_json(array) == ['{"a":[1,null]}', "x", "y", "1.5"]
    assert datatype_of(array) == datatype_of(np.array(["a"])) == datatype_of(np.array([b"a"]))
    assert to_json(np.array(["ä", "b"])) == ["ä", "b"]


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "timedelta64[s]", "V4"])
def test_other_types_have_no_datatype(dtype: str) -> None:
    with pytest.raises(PredictError, match="no datatype"):
        datatype_of(np.zeros(1, dtype))


def test_half_floats_of_other_packages_have_their_datatype() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([1.5, 2], ml_dtypes.bfloat16)
    assert datatype_of(array) == "BF16"
    np.testing.assert_array_equal(numbers_from_binary(to_binary(array), "BF16", (2,)), [1.5, 2])


def test_an_unknown_datatype_lists_the_known() -> None:
    with pytest.raises(DecodeError, match=r"one of BOOL, .* got 'FP8'"):
        check_datatype("FP8")


def test_a_hostile_tensor_takes_no_time() -> None:
    """A shape of 2**40 elements allocates nothing, and nesting costs each value once."""
    started = time.process_time()
    with pytest.raises(DecodeError, match="does not match the shape"):
        elements_from_binary(b"\0" * 8, (2**40,))
    nested: Any = 1
    for _ in range(60):
        nested = [nested, 1]
    values = [nested] + [1] * 500_000
    assert np.size(numbers_from_json(values, "INT8", (500_061,))) == 500_061
    assert time.process_time() - started < 5
