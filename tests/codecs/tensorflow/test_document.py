"""JSON documents of TensorFlow Serving's REST API."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.codecs.tensorflow.document import (
    as_bytes,
    decode_document,
    instances_of,
    signature_name,
    type_of,
    written,
)
from rayserve_app.errors import DecodeError


def test_tokens_that_json_lacks_are_numbers() -> None:
    document = decode_document(
        b'{"a": [NaN, Infinity, -Infinity, Inf, -Inf, -NaN, 1, 2.5, -3e2], "NaN": "Infinity, NaN"}'
    )
    assert document["NaN"] == "Infinity, NaN"
    values = document["a"]
    assert [math.isnan(value) for value in values] == [True] + [False] * 4 + [True] + [False] * 3
    assert values[1:5] == [math.inf, -math.inf, math.inf, -math.inf]
    assert values[6:] == [1, 2.5, -300]
    assert [type(value) for value in values[6:]] == [int, float, float]


def test_an_integer_is_the_same_with_and_without_such_tokens() -> None:
    for digits in ("18446744073709551615", "18446744073709551616", "-9223372036854775809"):
        plain = decode_document(f'{{"a": [{digits}]}}')["a"][0]
        special = decode_document(f'{{"a": [{digits}, NaN]}}')["a"][0]
        assert (type(special), special) == (type(plain), plain)


# http_rest_api_handler_test.cc, PredictRequestErrors.
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"instances = [1, 2]", "JSON Parse error: Invalid value. at offset: 0"),
        (b'{"a": [1, 2}', "JSON Parse error: Invalid value. at offset: 11"),
        (b'{"a": [NaN, 2}', "JSON Parse error: Invalid value. at offset: 13"),
        (b'{"a": 1NaN}', "JSON Parse error: Invalid value. at offset: "),
        (b'{"a": NaNa}', "JSON Parse error: Invalid value. at offset: 9"),
        (b'{"a": "NaN', "JSON Parse error: Invalid value. at offset: "),
        (b'{"a": "\xff"}', "JSON Parse error: Invalid value. at offset: "),
        (b'{"a": "\xff", "b": NaN}', "JSON Parse error: Invalid value. at offset: "),
        (b'{"a": [NaN, "\\ud800"]}', "JSON Parse error: Invalid value. at offset: "),
        (b'{"a": [NaN, 1e999]}', "JSON Parse error: Invalid value. at offset: 12"),
        (b'{"a": [NaN, %s]}' % (b"9" * 5000), "JSON Parse error: Invalid value. at offset: 12"),
        (b"[1]", "JSON Value: [\n    1\n] Is not object"),
        (b"NaN", "JSON Value: NaN Is not object"),
        (b'{"a": %sNaN%s}' % (b"[" * 99, b"]" * 99), "JSON is nested too deeply"),
    ],
)
def test_what_is_no_document_is_refused(body: bytes, sentence: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_document(body)
    assert sentence in str(caught.value)


def test_a_hostile_string_is_read_in_one_pass() -> None:
    """A search that went back would take hours."""
    with pytest.raises(DecodeError, match="at offset"):
        decode_document(b'{"a": NaN, "b": "' + b'\\"' * 500_000)


SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner)
)


@settings(deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_all_that_python_writes_is_read_as_python_reads_it(document: dict[str, Any]) -> None:
    for ensure_ascii in (True, False):
        text = json.dumps(document, ensure_ascii=ensure_ascii)
        # NaN is unlike itself.
        assert repr(decode_document(text)) == repr(json.loads(text))


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([b"NaN", b"-", b"Inf", b"inity", b'"', b"\\", b"{", b"}", b"[", b"]", b":",
                         b",", b"1", b"a", b" ", b"\xff", b"e9"]),
        max_size=12,
    )
)  # fmt: skip
def test_whatever_comes_is_read_or_refused(pieces: list[bytes]) -> None:
    with contextlib.suppress(DecodeError):
        assert isinstance(decode_document(b"".join(pieces)), dict)


@pytest.mark.parametrize(
    ("document", "name"),
    [({}, None), ({"signature_name": ""}, None), ({"signature_name": "a"}, "a")],
)
def test_the_signature_may_be_left_out(document: Any, name: str | None) -> None:
    assert signature_name(document) == name


@pytest.mark.parametrize("value", [None, 100, ["a"]])
def test_a_signature_has_a_string_for_a_name(value: Any) -> None:
    with pytest.raises(DecodeError, match="'signature_name' key must be a string value\\."):
        signature_name({"signature_name": value})


def test_a_request_is_in_one_of_two_forms() -> None:
    assert instances_of({"instances": [1]}) == [1]
    assert instances_of({"inputs": [1]}) is None


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({}, "Missing 'inputs' or 'instances' key"),
        (
            {"inputs": 1, "instances": [1]},
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        ),
        ({"instances": 1}, "Excepting 'instances' to be an list/array"),
        ({"instances": []}, "No values in 'instances' array"),
    ],
)
def test_another_form_is_refused(document: Any, sentence: str) -> None:
    with pytest.raises(DecodeError) as caught:
        instances_of(document)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ("ü", "ü".encode()),
        (b"\xff", b"\xff"),
        ({"b64": "aGVsbG8="}, b"hello"),
        ({"b64": "aGVsbG8"}, b"hello"),
        ({"b64": " aGVs\nbG8=\n"}, b"hello"),
        ({"b64": "+/8="}, b"\xfb\xff"),
        ({"b64": ""}, b""),
    ],
)
def test_bytes_come_as_text_or_base64(value: Any, data: bytes) -> None:
    assert as_bytes(value) == data


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"b64": "%"}, "Unable to base64 decode"),
        ({"b64": "-_8="}, "Unable to base64 decode"),
        ({"b64": "a"}, "Unable to base64 decode"),
        ({"b64": 1}, "not formatted correctly for base64 data"),
        ({"b64": "", "a": ""}, "not formatted correctly for base64 data"),
    ],
)
def test_other_bytes_are_refused(value: Any, sentence: str) -> None:
    with pytest.raises(DecodeError, match=sentence):
        as_bytes(value)


def test_values_have_the_names_of_rapidjson() -> None:
    values = [None, True, False, {}, [], "", 1, 1.5]
    names = ["Null", "True", "False", "Object", "Array", "String", "Number", "Number"]
    assert [type_of(value) for value in values] == names


def test_a_sentence_does_not_repeat_a_whole_body() -> None:
    assert written({"a": [1, "ü"]}) == '{\n    "a": [\n        1,\n        "ü"\n    ]\n}'
    assert len(written([["a" * 5000] * 100] * 100)) < 1010
    assert written(b"hello") == written({"b64": "aGVsbG8="})
