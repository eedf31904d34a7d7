"""`tf.train.Example`s in JSON and serialised, after json_tensor_test.cc; TensorFlow reads them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.codecs.tensorflow.examples import read_examples, serialise
from rayserve_app.errors import DecodeError


def test_examples_are_lists_of_features() -> None:
    document = {
        "examples": [
            {"names": ["foo", "bar"], "ratings": [8.0, 9.0], "age": 20},
            {"names": [{"b64": "YmF6"}], "ratings": 6.0, "new": True},
        ]
    }
    assert read_examples(document) == [
        {"names": ["foo", "bar"], "ratings": [8.0, 9.0], "age": [20]},
        {"names": [b"baz"], "ratings": [6.0], "new": [1]},
    ]


def test_features_of_the_context_hold_for_examples_that_have_none() -> None:
    document = {"context": {"a": 1, "b": 2}, "examples": [{}, {"b": [3, 4]}]}
    assert read_examples(document) == [{"a": [1], "b": [2]}, {"a": [1], "b": [3, 4]}]


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({}, "When method is classify, key 'examples' is expected and was not found"),
        ({"examples": {}}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{}], "context": []}, "Example must be JSON object but got JSON Array"),
        ({"examples": [{"x": [1.0, 2]}]}, "in feature: x expecting type: float"),
        ({"examples": [{"x": [1, "a"]}]}, "in feature: x expecting type: int64"),
        ({"examples": [{"x": ["a", True]}]}, "in feature: x expecting type: bytes"),
        ({"examples": [{"x": None}]}, "x has element with unexpected JSON type: Null"),
        ({"examples": [{"x": [[1]]}]}, "x has element with unexpected JSON type: Array"),
        ({"examples": [{"x": {"a": 1}}]}, "x has element with unexpected JSON type: Object"),
        ({"examples": [{"x": {"b64": "%"}}]}, "Unable to base64 decode"),
        ({"examples": [{"x": 2**63}]}, "has uint64 element. Only int64 is supported."),
        ({"examples": [{"x": 1e300}]}, "to float without loss of precision."),
    ],
)
def test_what_a_feature_cannot_hold_is_refused(document: Any, sentence: str) -> None:
    with pytest.raises(DecodeError) as caught:
        read_examples(document)
    assert sentence in str(caught.value)


VALUES = (
    st.lists(st.integers(-(2**63), 2**63 - 1))
    | st.lists(st.floats(width=32, allow_nan=False))
    | st.lists(st.binary(max_size=300))
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=200), VALUES, max_size=4))
def test_tensorflow_reads_what_is_serialised(features: dict[str, list[Any]]) -> None:
    protobuf: Any = pytest.importorskip("tensorflow").train
    lists = {
        int: lambda values: protobuf.Feature(int64_list=protobuf.Int64List(value=values)),
        float: lambda values: protobuf.Feature(float_list=protobuf.FloatList(value=values)),
        bytes: lambda values: protobuf.Feature(bytes_list=protobuf.BytesList(value=values)),
    }
    expected = {
        name: lists[type(values[0])](values) if values else protobuf.Feature()
        for name, values in features.items()
    }
    example = protobuf.Example(features=protobuf.Features(feature=expected))
    assert protobuf.Example.FromString(serialise(features)) == example


def test_text_is_serialised_as_utf8() -> None:
    assert serialise({"x": ["ü"]}) == serialise({"x": ["ü".encode()]})
