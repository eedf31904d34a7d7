from __future__ import annotations

import dataclasses
import enum
import json as stdlib
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rayserve_app.codecs import json
from rayserve_app.errors import DecodeError, PredictError
from rayserve_app.types import Array

fast = settings(derandomize=True, deadline=None, max_examples=50)
NAN = float("nan")
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
texts = st.text('[]{}"\\,:', max_size=8) | st.text()
values = st.recursive(
    scalars | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=30
)


@fast
@given(values)
def test_round_trip_and_agreement_with_the_standard_library(value: Any) -> None:
    text = json.encode(value)
    assert stdlib.loads(text) == value
    assert json.decode(text) == value
    spaced = stdlib.dumps(value, indent=1)
    assert json.decode(spaced) == json.decode(memoryview(spaced.encode())) == value


@fast
@given(texts, st.sampled_from(["A", "+/", "é", "\\", '"', "\x00", "\n"]), st.integers(0, 3))
def test_a_document_that_is_one_long_string_and_little_more(key: str, end: str, place: int) -> None:
    """What is read apart from the rest comes out as the standard library reads it."""
    long = "q83v" * 5000 + end
    value = [
        {key: long, "a": [1.5, None, {"b": ""}]},
        [key, long, [long[:10]], 1],
        {"a": {"b": [{"c": long}]}, key: [True]},
        {long: key},
    ][place]
    for text in (stdlib.dumps(value), stdlib.dumps(value, ensure_ascii=False)):
        assert json.decode(text) == stdlib.loads(text)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ('{"a": "%s"' % ("A" * 20_000), 20_008),
        ('{"a": "%s}' % ("A" * 20_000), 20_008),
        ('["%s" 1]' % ("A" * 20_000), 20_004),
        ('["%s", "\0"]' % ("A" * 20_000), 20_006),
        ('["%s\0"]' % ("A" * 20_000), 20_002),
    ],
)
def test_the_fault_after_a_long_string_is_found(text: str, position: int) -> None:
    with pytest.raises(DecodeError) as raised:
        json.decode(text)
    cause = raised.value.__cause__
    assert isinstance(cause, stdlib.JSONDecodeError)
    assert cause.pos == pytest.approx(position, abs=1)


def test_a_long_string_is_less_work_than_many_values() -> None:
    image = stdlib.dumps({"input": "A" * 200_000}).encode()
    assert json.work_bytes(image) == json.work_bytes(memoryview(image)) < len(image) / 3
    numbers, escapes = b"[%s0]" % (b"1," * 100_000), b'"%s"' % (b"\\u0041" * 30_000)
    for document in (numbers, escapes, image * 2):
        assert json.work_bytes(document) == len(document)


@pytest.mark.parametrize("document", [b"[%s1]" % (b"[1]," * 999), b'[%s"a"]' % (b'"a",' * 999)])
def test_many_values_in_a_short_document_are_more_work_than_its_length(document: bytes) -> None:
    assert json.work_bytes(document) > 1.2 * len(document)


def test_encodes_compactly_and_keeps_unicode() -> None:
    assert (
        json.encode({"a": [1, (2.5, None)], "ü": True}) == '{"a":[1,[2.5,null]],"ü":true}'.encode()
    )


@pytest.mark.parametrize("shape", [(40_000,), (1, 40_000), (40_000, 1), (3, 2, 8000), (2, 0)])
@pytest.mark.parametrize("dtype", ["float32", ">f8", "int8", "bool"])
def test_large_arrays_are_written_as_orjson_does_at_once(
    shape: tuple[int, ...], dtype: str
) -> None:
    array = np.asarray(np.random.default_rng(0).random(shape) * 100).astype(dtype)
    for each in (array, array.T):
        native = np.ascontiguousarray(each, each.dtype.newbyteorder("=")).reshape(each.shape)
        expected = orjson.dumps(native, option=orjson.OPT_SERIALIZE_NUMPY)
        assert json.encode(each) == expected
        document = {"outputs": [{"data": each, "shape": [1]}], "mean": np.float32(0.5)}
        start, end = b'{"outputs":[{"data":', b',"shape":[1]}],"mean":0.5}'
        assert json.encode(document) == start + expected + end


def test_what_is_not_finite_is_found_in_a_large_array_too() -> None:
    array = np.zeros((3, 20_000))
    array[2, 7] = np.nan
    with pytest.raises(PredictError, match="NaN or infinity") as info:
        json.encode({"data": array})
    assert info.value.path == "data[2][7]"


@pytest.mark.parametrize("depth", [63, 64])
def test_takes_nesting_up_to_the_limit(depth: int) -> None:
    text = "[" * depth + "]" * depth
    assert json.decode(text) == stdlib.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 65 + "]" * 65,
        '{"a":' * 65 + "1" + "}" * 65,
        '[{"a":' * 33 + "1" + "}]" * 33,
        '["]]]]",' * 65 + "1" + "]" * 65,
        r'["\\",' * 65 + "1" + "]" * 65,
        r'["\"]",' * 65 + "1" + "]" * 65,
        "[1,[2,3]," + " " * 100_000 + "[" * 64 + "]" * 65,
        "[" * 10_000_000,
        '{"a":' * 2_000_000,
    ],
)
def test_refuses_deeper_nesting(text: str) -> None:
    with pytest.raises(DecodeError, match="nested too deeply: expected at most 64 levels"):
        json.decode(text)


@pytest.mark.parametrize(
    "value", ["[" * 999, ["{[" * 99, '"[\\' * 99], [[1]] * 500, {"[" * 99: r"\"[" * 99}]
)
def test_brackets_in_strings_and_in_a_row_are_no_nesting(value: Any) -> None:
    assert json.decode(stdlib.dumps(value)) == value


@fast
@given(values, st.integers(0, 70))
def test_depth_is_counted_as_the_standard_library_nests(value: Any, more: int) -> None:
    def depth(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value
        nests = isinstance(value, dict | list)
        return 1 + max(map(depth, inner), default=0) if nests else 0

    text = "[" * more + stdlib.dumps(value) + "]" * more
    if depth(value) + more <= json.MAX_DEPTH:
        assert json.decode(text) == stdlib.loads(text)
    else:
        with pytest.raises(DecodeError, match="nested"):
            json.decode(text)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "not JSON: .*empty"),
        (b'{"a": 1 2}', r"not JSON: .*line 1 column 9 \(char 8\)"),
        (b'{"a":\n tru}', "line 2 column"),
        (b"[1] [2]", "not JSON"),
        (b"[NaN]", "not JSON"),
        (b"[-Infinity]", "not JSON"),
        (b"[1e999]", "infinity"),
        (b'"\xff"', "UTF-8"),
        ('"\ud800"', "UTF-8"),
        (b"\xef\xbb\xbf[]", "not JSON"),
    ],
)
def test_refuses_what_is_not_json(data: bytes | str, sentence: str) -> None:
    with pytest.raises(DecodeError, match=sentence):
        json.decode(data)


@fast
@given(st.binary() | st.text() | st.text('[]{}",:0 \\'))
def test_arbitrary_bytes_raise_decode_error_at_most(data: bytes | str) -> None:
    try:
        json.decode(data)
    except DecodeError:
        return
    stdlib.loads(data)


def test_decode_object() -> None:
    assert json.decode_object(b'{"a": 1}') == {"a": 1}
    for text, kind in [
        ("[]", "an array"),
        ('"a"', "a string"),
        ("1.5", "a number"),
        ("null", "null"),
    ]:
        with pytest.raises(DecodeError, match=f"expected an object, got {kind}$"):
            json.decode_object(text)
    with pytest.raises(DecodeError, match="got a boolean"):
        json.decode_object("true")


numbers = hnp.arrays(
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.unsigned_integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0),
    elements={"allow_nan": False, "allow_infinity": False},
)


@fast
@given(numbers, st.booleans())
def test_arrays_are_nested_lists_of_their_own_precision(array: Array, transposed: bool) -> None:
    array = array.T if transposed else array
    again = json.decode(json.encode({"a": [array]}))["a"][0]
    if array.size:
        np.testing.assert_array_equal(np.array(again, array.dtype), array)
    else:
        assert np.size(again) == 0


def test_floats_are_written_in_the_shortest_form_of_their_type() -> None:
    array = np.array([0.1], np.float32)
    assert json.encode([array, array[0], np.float64(0.1)]) == b"[[0.1],0.1,0.1]"


@pytest.mark.parametrize("dtype", [">f4", "<f4", ">f8", "f2"])
def test_byte_order_does_not_matter(dtype: str) -> None:
    assert json.encode([np.array([0.5, 2], dtype), np.int8(3)]) == b"[[0.5,2.0],3]"


def test_arrays_of_text() -> None:
    value = [np.array([["a", "é"]]), np.array([b"a", "é".encode()]), np.array(["b", None], object)]
    assert stdlib.loads(json.encode(value)) == [[["a", "é"]], ["a", "é"], ["b", None]]


class Colour(enum.Enum):
    BROKEN = NAN


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (NAN, None),
        ({"boxes": [1.0, None, float("inf")]}, r"boxes\[2\]"),
        ([(0, np.float32("nan"))], r"\[0\]\[1\]"),
        (np.array([[1, 2], [3, -np.inf]]), r"\[1\]\[1\]"),
        ({"a": np.array([np.nan], ">f2")}, r"a\[0\]"),
        ({"a": np.array([[0, np.nan]]).T}, r"a\[1\]\[0\]"),
        (np.array(np.nan), None),
        (np.array(["null", NAN], object), r"\[1\]"),
        ([Colour.BROKEN], r"\[0\]"),
    ],
)
def test_refuses_numbers_that_json_has_not(value: Any, path: str | None) -> None:
    with pytest.raises(
        PredictError, match=f"got NaN or infinity{f' - at `{path}`' if path else ''}$"
    ):
        json.encode(value)


@dataclasses.dataclass
class Box:
    width: float = 1.5


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["é".encode(), bytearray(b"b"), memoryview(b"c")], '["é","b","c"]'),
        (b"\xff\x00", '{"b64":"/wA="}'),
        (np.array([b"a", b"\xff"], object), '["a",{"b64":"/w=="}]'),
        (np.array([b"ab", b"c"]), '["ab","c"]'),
        ({"box": Box()}, '{"box":{"width":1.5}}'),
        ({1: {None: 2, True: 0.5}, np.int64(7): 8}, '{"1":{"null":2,"true":0.5},"7":8}'),
        ([2**70, -(2**63), 2**64 - 1], f"[{2**70},{-(2**63)},{2**64 - 1}]"),
        (np.array([65504, 0.1], np.float16), "[65504.0,0.099975586]"),
        (np.array(0.1, np.float32), "0.1"),
        (np.array(["2020-01-01", "NaT"], "M8[D]"), '["2020-01-01T00:00:00",null]'),
        (np.array(["2020-01-01", "NaT"], "M8[ns]")[1:], "[null]"),
        ([np.datetime64("NaT", "ms"), np.datetime64(0, "s")], '[null,"1970-01-01T00:00:00"]'),
        (range(3), "[0,1,2]"),
    ],
)
def test_what_else_python_has_becomes_what_json_has(value: Any, text: str) -> None:
    assert json.encode(value).decode() == text


@pytest.mark.parametrize(
    "value",
    [
        [1.5, NAN, [-math.inf], {"a": math.inf, "b": None}],
        np.array([[1.5, np.nan], [-np.inf, np.inf]], np.float32),
        {"a": np.full(40_000, np.nan), "b": np.float32("inf")},
    ],
    ids=["lists", "array", "large"],
)
def test_nan_and_infinities_are_tokens_where_they_are_wanted(value: Any) -> None:
    found = stdlib.loads(json.encode(value, with_nan=True))
    expected = stdlib.loads(
        stdlib.dumps(value, default=lambda each: np.asarray(each, np.float64).tolist())
    )
    np.testing.assert_equal(found, expected)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"a": [object()]}, r"got type object - at `a\[0\]`$"),
        ({(1, 2): 3}, "key of a result is not text: got type tuple"),
        ({1: 2, "1": 3}, "Two keys of a result are one in JSON: got '1'"),
        ("\ud800", "UTF-8"),
        (np.array([1j]), "an array of complex128"),
        (np.array([1], np.longdouble), "an array of float"),
        (np.array([3], "m8[s]"), "an array of timedelta64"),
        ([np.array([1], ">i4"), {2}], "type set"),
    ],
)
def test_refuses_types_that_json_has_not(value: Any, sentence: str) -> None:
    with pytest.raises(PredictError, match=sentence):
        json.encode(value)


@pytest.mark.parametrize("unit", ['"",', "[],", "{},"])
def test_refuses_documents_of_too_many_values(unit: str) -> None:
    with pytest.raises(DecodeError, match="too many values: expected at most 1000000"):
        json.decode("[" + unit * 1_000_001 + "0]")


def test_large_arrays_of_numbers_are_no_trouble() -> None:
    assert len(json.decode("[" + "0.5," * 1_000_001 + "0]")) == 1_000_002
