"""Answers of TensorFlow Serving's REST API, byte by byte.

The layouts follow from RapidJSON's PrettyWriter and from where json_tensor.cc turns
`kFormatSingleLineArray` on; the values are those of json_tensor_test.cc.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from rayserve_app.codecs.tensorflow.reply import (
    render_classifications,
    render_error,
    render_outputs,
    render_predictions,
    render_regressions,
)
from rayserve_app.errors import InvalidRequest, PredictError

INTEGERS = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2], np.int32).reshape(2, 3, 2)


def objects(*values: Any) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


STRINGS = objects(b"hello", b"world", b"tf", b"serving").reshape(2, 2)


def test_half_plus_three() -> None:
    """As the server itself answers; api_rest.md leaves the line break out."""
    outputs = {"y": np.array([3.5, 4, 5.5], np.float32)}
    assert render_predictions(outputs) == b'{\n    "predictions": [3.5, 4.0, 5.5\n    ]\n}'
    assert render_outputs(outputs) == (
        b'{\n    "outputs": [\n        3.5,\n        4.0,\n        5.5\n    ]\n}'
    )


def test_nested_rows_take_one_line() -> None:
    assert render_predictions({"int_tensor": INTEGERS}).decode() == (
        '{\n    "predictions": [[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 0], [1, 2]]\n    ]\n}'
    )


def test_nested_columns_take_a_line_for_each_element() -> None:
    assert render_outputs({"x": INTEGERS[:, :2, :1]}).decode() == (
        "{\n"
        '    "outputs": [\n'
        "        [\n"
        "            [\n"
        "                1\n"
        "            ],\n"
        "            [\n"
        "                3\n"
        "            ]\n"
        "        ],\n"
        "        [\n"
        "            [\n"
        "                7\n"
        "            ],\n"
        "            [\n"
        "                9\n"
        "            ]\n"
        "        ]\n"
        "    ]\n"
        "}"
    )


def test_rows_of_several_outputs_are_objects() -> None:
    outputs = {"a": np.array([8.0, 9.0]), "b": np.array([[1], [2]]), "c": STRINGS}
    assert render_predictions(outputs).decode() == (
        "{\n"
        '    "predictions": [\n'
        "        {\n"
        '            "a": 8.0,\n'
        '            "b": [1],\n'
        '            "c": ["hello", "world"]\n'
        "        },\n"
        "        {\n"
        '            "a": 9.0,\n'
        '            "b": [2],\n'
        '            "c": ["tf", "serving"]\n'
        "        }\n"
        "    ]\n"
        "}"
    )


def test_several_outputs_in_columns_are_an_object() -> None:
    outputs = {"a": np.array([True, False]), "b_bytes": STRINGS[:1, :1]}
    assert render_outputs(outputs).decode() == (
        "{\n"
        '    "outputs": {\n'
        '        "a": [\n'
        "            true,\n"
        "            false\n"
        "        ],\n"
        '        "b_bytes": [\n'
        "            [\n"
        "                {\n"
        '                    "b64": "aGVsbG8="\n'
        "                }\n"
        "            ]\n"
        "        ]\n"
        "    }\n"
        "}"
    )


def test_bytes_stand_in_base64_within_rows() -> None:
    assert render_predictions({"str_tensor_bytes": STRINGS[:, :1]}).decode() == (
        "{\n"
        '    "predictions": [[{\n'
        '                "b64": "aGVsbG8="\n'
        "            }], [{\n"
        '                "b64": "dGY="\n'
        "            }]\n"
        "    ]\n"
        "}"
    )


def test_strings_are_text_and_what_is_none_is_bytes() -> None:
    rendered = render_predictions({"x": objects("ü", "ü".encode(), b"\xff", 'a"\n')})
    assert json.loads(rendered)["predictions"] == ["ü", "ü", {"b64": "/w=="}, 'a"\n']
    assert "ü".encode() in rendered


def test_whatever_json_holds_may_be_a_result() -> None:
    values: list[Any] = [
        {"label": "cat", "box": [1, 2.5, None, True], "empty": {}},
        [],
        [[1.5], [2.0, 3.0]],
        "text",
        7,
        2**64 - 1,
        np.float32(0.1),
        np.array([[1, 2]]),
        (1, "a"),
    ]
    expected = [*values[:6], 0.1, [[1, 2]], [1, "a"]]
    for rendered in (
        json.loads(render_predictions({"output": objects(*values)}))["predictions"],
        json.loads(render_outputs({"output": objects(*values)}))["outputs"],
    ):
        assert rendered == expected


def test_tokens_that_json_lacks() -> None:
    outputs = {"x": objects([float("nan"), float("-inf")], float("inf"))}
    assert b"[NaN, -Infinity], Infinity" in render_predictions(outputs)


@settings(deadline=None)
@given(
    st.sampled_from([np.float32, np.int64, np.bool_]).flatmap(
        lambda dtype: arrays(
            dtype,
            array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3),
            elements={"allow_nan": False} if dtype is np.float32 else None,
        )
    ),
    st.booleans(),
)
def test_every_array_comes_back(array: Any, is_several: bool) -> None:
    outputs = {"x": array} | ({"y": array} if is_several else {})
    columns = json.loads(render_outputs(outputs))["outputs"]
    rows = json.loads(render_predictions(outputs))["predictions"]
    x = columns["x"] if is_several else columns
    np.testing.assert_array_equal(np.array(x, array.dtype).reshape(array.shape), array)
    assert [row["x"] if is_several else row for row in rows] == x


def test_an_output_without_an_axis_of_items_makes_no_rows() -> None:
    with pytest.raises(InvalidRequest, match="Tensor name: x has no shape information"):
        render_predictions({"x": np.array(1)})
    with pytest.raises(InvalidRequest, match="b has inconsistent batch size: 1 expecting: 2"):
        render_predictions({"a": np.zeros(2), "b": np.zeros(1)})
    assert render_outputs({"x": np.array(1)}) == b'{\n    "outputs": 1\n}'


RECURSIVE: list[Any] = []
RECURSIVE.append(RECURSIVE)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({(1, 2): 2}, "key of a result is not text: got type tuple"),
        (object(), "cannot be written: got type object"),
        ("\ud800", "cannot be written as JSON"),
        ({"\ud800": 1}, "cannot be written as JSON"),
        (1 + 2j, "cannot be written: got type complex"),
        (np.zeros(1, complex), "Failed to write JSON value for tensor type: complex128"),
        (RECURSIVE, "nested too deeply"),
    ],
)
def test_a_result_that_json_cannot_hold_is_the_models_fault(value: Any, sentence: str) -> None:
    for render in (render_predictions, render_outputs):
        with pytest.raises(PredictError, match=sentence):
            render({"x": objects(value)})


# http_rest_api_handler_test.cc, Classify and Regress.
def test_classes_and_values() -> None:
    assert render_classifications([[""]], [[12.0]]) == b'{\n    "results": [[["", 12.0]]\n    ]\n}'
    assert render_classifications([["a", b"b\xc3\xbc"], []], [[0.1, 2], []]).decode() == (
        '{\n    "results": [[["a", 0.1], ["bü", 2.0]], []\n    ]\n}'
    )
    assert render_classifications([[b"\xff"]], [[1]]) == (
        b'{\n    "results": [[[{"b64":"/w=="}, 1.0]]\n    ]\n}'
    )
    assert render_regressions(np.array([42.0])) == b'{\n    "results": [42.0]\n}'
    assert render_regressions(np.array([3.5, 4.0])) == b'{\n    "results": [3.5, 4.0]\n}'


def test_an_error() -> None:
    """api_rest.md, "Example"."""
    sentence = "Servable not found for request: Latest(half)"
    body = render_error(sentence)
    assert body == b'{ "error": "Servable not found for request: Latest(half)" }'
    assert json.loads(render_error('a "b"\n')) == {"error": 'a "b"\n'}
