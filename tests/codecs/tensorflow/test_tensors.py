"""Tensors in predict requests, after json_tensor_test.cc."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from rayserve_app.codecs.tensorflow.tensors import (
    MAX_RANK,
    read_columns,
    read_rows,
    read_tensor,
)
from rayserve_app.errors import DecodeError
from rayserve_app.types import TensorSpec

NAN, INF = math.nan, math.inf


def specs(**dtypes: str) -> list[TensorSpec]:
    return [TensorSpec(name, dtype, ()) for name, dtype in dtypes.items()]


def check(found: dict[str, Any], **expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


def text(*values: Any) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def test_a_single_unnamed_tensor() -> None:
    rows = read_rows([[1, 2], [3, 4], [5, 6]], specs(default="int32"))
    check(rows, default=np.array([[1, 2], [3, 4], [5, 6]], np.int32))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_whole_numbers_are_floats_too(dtype: str) -> None:
    check(
        read_rows([1, 2.0, 3, 5.003, 0.007], specs(x=dtype)),
        x=np.array([1, 2, 3, 5.003, 0.007], dtype),
    )


def test_base64_scalars_and_lists() -> None:
    hello, world = {"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}
    spec = specs(default="string")
    check(read_rows([hello, world], spec), default=text(b"hello", b"world"))
    check(read_rows([[hello], [world]], spec), default=text(b"hello", b"world")[:, None])
    named = [{"default": [[hello], [world]]}]
    check(read_rows(named, spec), default=text(b"hello", b"world").reshape(1, 2, 1))


MANY = {
    "int_tensor": "int32",
    "str_tensor": "string",
    "float_tensor": "float32",
    "dbl_tensor": "float64",
}


def test_several_named_tensors() -> None:
    rows = [
        {
            "int_tensor": [[1, 2], [3, 4], [5, 6]],
            "str_tensor": ["foo", "bar"],
            "float_tensor": [1.0, NAN],
            "dbl_tensor": [NAN],
        },
        {
            "int_tensor": [[7, 8], [9, 0], [1, 2]],
            "str_tensor": ["baz", "bat"],
            "float_tensor": [2.0, INF],
            "dbl_tensor": [2.0],
        },
    ]
    check(
        read_rows(rows, specs(**MANY)),
        int_tensor=np.array([row["int_tensor"] for row in rows], np.int32),
        str_tensor=text(b"foo", b"bar", b"baz", b"bat").reshape(2, 2),
        float_tensor=np.array([[1, NAN], [2, INF]], np.float32),
        dbl_tensor=np.array([[NAN], [2]]),
    )


def test_columns() -> None:
    table = [[[1, 2], [3, 4], [5, 6]]]
    single = specs(int_tensor="int32")
    for value in (table, {"int_tensor": table}):
        check(read_columns(value, single), int_tensor=np.array(table, np.int32))
    check(
        read_columns(
            {"i": table, "s": ["foo", "bar"], "b": {"b64": "aGVsbG8="}, "other": 1},
            specs(i="int32", s="string", b="string"),
        ),
        i=np.array(table, np.int32),
        s=text(b"foo", b"bar"),
        b=text(b"hello").reshape(()),
    )


@settings(deadline=None)
@given(
    st.sampled_from(["bool", "int8", "uint8", "int32", "int64", "uint64", "float32", "float64"]),
    st.data(),
)
def test_every_array_is_its_nested_lists(dtype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(dtype, array_shapes(min_dims=0, max_dims=4, min_side=1)))
    found = read_tensor(array.tolist(), TensorSpec("x", dtype, ()))
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("dtype", "instances", "sentence"),
    [
        ("int32", [[1, 2], [3, 4], [5, 6, 7]], "Expecting tensor size: 2 but got: 3"),
        ("int32", [[1, 2], [3, 4], [[5, 6]]], "Expecting shape [2] but got: [1,2]"),
        ("int32", [1, [1]], "Expecting shape [] but got: [1]"),
        ("int32", [[1, 2], ["a", "b"]], '"a" Type: String is not of expected type: int32'),
        ("int32", [1, 2.5], "JSON Value: 2.5 Type: Number is not of expected type: int32"),
        ("int32", [2**31], "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        ("uint8", [-1], "JSON Value: -1 Type: Number is not of expected type: uint8"),
        ("int32", [True], "JSON Value: true Type: True is not of expected type: int32"),
        ("float32", [True], "Type: True is not of expected type: float"),
        ("float64", [None], "JSON Value: null Type: Null is not of expected type: double"),
        ("float16", [{"b64": ""}], "Type: Object is not of expected type: half"),
        ("bool", [0], "JSON Value: 0 Type: Number is not of expected type: bool"),
        ("string", [1], "JSON Value: 1 Type: Number is not of expected type: string"),
        ("string", [[{"a": 1}]], "not formatted correctly for base64 data"),
        ("string", [{"b64": "%"}], "Error: INVALID_ARGUMENT: Unable to base64 decode"),
        (
            "float32",
            [1e300],
            "Cannot convert JSON value: 1e+300 to float without loss of precision",
        ),
        (
            "float32",
            [[[1], 2]],
            "found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        ("float32", [[1, [2]]], "Encountered list at unexpected level: 1 expected < 1"),
        ("float32", [[[1, 2], [3]]], "Encountered list at unexpected size: 1 at level: 1 expected"),
        ("string", [["a", "b"], {"x": ["a"]}], "Expecting value/list but got object at item 1"),
        ("int32", [{"x": 1}, 2], "Expecting object but got list at item 1 of input list"),
        ("int32", [{"x": 1}, {"x": 1, "y": 2}], "element: 1 key: y of 'instances' list. Error"),
        ("int32", [{"x": 1}, {"z": 1}], "JSON object: does not have named input: z"),
        ("int32", [{"x": 1}, {}], "keys must be equal to: x"),
    ],
)
def test_rows_that_do_not_fit(dtype: str, instances: list[Any], sentence: str) -> None:
    with pytest.raises(DecodeError) as caught:
        read_rows(instances, specs(x=dtype))
    assert sentence in str(caught.value)


def test_the_sentence_of_upstream_in_full() -> None:
    with pytest.raises(DecodeError) as caught:
        read_rows([1.0, "x"], specs(x="float32"))
    assert str(caught.value) == (
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
        'JSON Value: "x" Type: String is not of expected type: float'
    )


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([1], "inputs is a plain value/list, but expecting an object as multiple input tensors"),
        ({"b64": ""}, "inputs is a plain value/list"),
        ({"a": [1]}, "Missing named input: b in 'inputs' object."),
        ({"a": [1], "b": [[1], [2, 3]]}, "Encountered list at unexpected size: 2 at level: 1"),
    ],
)
def test_columns_that_do_not_fit(value: Any, sentence: str) -> None:
    with pytest.raises(DecodeError) as caught:
        read_columns(value, specs(a="int32", b="int32"))
    assert sentence in str(caught.value)


def test_rows_of_several_inputs_are_objects() -> None:
    with pytest.raises(DecodeError, match="instances is a plain list, but expecting list of obj"):
        read_rows([1], specs(a="int32", b="int32"))


def test_there_is_an_end_to_nesting() -> None:
    nested: Any = 1
    for _ in range(MAX_RANK + 1):
        nested = [nested]
    with pytest.raises(DecodeError, match="Encountered list at unexpected level: 31 expected < 31"):
        read_tensor(nested, TensorSpec("x", "int32", ()))
    assert read_tensor(nested[0], TensorSpec("x", "int32", ())).ndim == MAX_RANK
