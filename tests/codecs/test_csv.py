from __future__ import annotations

import csv as stdlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rayserve_app.codecs import csv
from rayserve_app.errors import DecodeError, PredictError
from rayserve_app.types import Array

GOLDEN = Path(__file__).parent / "golden" / "csv"
fast = settings(derandomize=True, deadline=None, max_examples=50)


def test_reads_what_sqlite_wrote() -> None:
    assert csv.decode((GOLDEN / "sqlite.csv").read_bytes()) == [
        ["id", "name", "score"],
        [1.0, "plain", 0.5],
        [2.0, 'a "quoted", word', 0.001],
        [3.0, "two\nlines", -4.0],
    ]


@pytest.mark.parametrize(
    "data", ["1,2\n3,4\n", b"1,2\r\n3,4", "\ufeff1,2\r3,4\r", "\n1,2\n\n3, 4\n\n"]
)
def test_line_ends_blank_lines_and_byte_order_mark(data: str | bytes) -> None:
    assert csv.decode(data) == [[1.0, 2.0], [3.0, 4.0]]


def test_what_is_a_number() -> None:
    (row,) = csv.decode("1,-2.5e3,.5,+7,inf,1_000,٣,0x10,,a")
    assert row == [1.0, -2500.0, 0.5, 7.0, math.inf, "1_000", "٣", "0x10", "", "a"]
    assert math.isnan(csv.decode("nan")[0][0])  # type: ignore[arg-type]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).map("x".__add__)


@fast
@given(st.lists(st.lists(st.floats(allow_nan=False) | texts, min_size=1)))
def test_round_trip_and_agreement_with_the_standard_library(rows: list[list[float | str]]) -> None:
    text = csv.encode(rows)
    plain = list(stdlib.reader(io.StringIO(text, newline="")))
    assert plain == [[str(field) for field in row] for row in rows]
    assert csv.decode(text.encode()) == rows


@fast
@given(hnp.arrays(hnp.floating_dtypes(sizes=(16, 32, 64)), (2, 3)))
def test_floats_survive_in_their_own_type(array: Array) -> None:
    again = np.array(csv.decode(csv.encode(array))).astype(array.dtype)
    np.testing.assert_array_equal(again, array)


def test_writes_scalars_shortest_and_ends_each_line() -> None:
    rows = [[np.float32(0.1), 0.1, np.int8(3), 2**70], ["a,b", 'c"', True, None], np.array(["d"])]
    assert csv.encode(rows) == '0.1,0.1,3,1180591620717411303424\n"a,b","c""",True,\nd\n'
    assert csv.encode([]) == ""


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"a,\xff", "not UTF-8: .* at offset 2$"),
        ("a\0b", "NUL at offset 1$"),
        ('1,2\n"a"b', "not CSV: .* in line 2$"),
        ('"a', "not CSV: .*end of data"),
        ("a" * 200_000, "field larger than field limit"),
    ],
)
def test_refuses(data: bytes | str, sentence: str) -> None:
    with pytest.raises(DecodeError, match=sentence):
        csv.decode(data)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([1.5], "float"),
        (["abc"], "a row of type str$"),
        ([[b"\xff"]], "expected UTF-8, got bytes"),
        ([["\ud800"]], "expected UTF-8, got str"),
        ([[1j]], "type complex$"),
        ([[[1]]], "a field of type list$"),
        (np.zeros((1, 1, 1)), "a field of type ndarray$"),
        ([[{}]], "a field of type dict$"),
    ],
)
def test_results_that_are_no_table(rows: Any, sentence: str) -> None:
    with pytest.raises(PredictError, match=sentence):
        csv.encode(rows)


@fast
@given(st.binary() | st.text() | st.text('",\n\r a1'))
def test_arbitrary_bytes_raise_decode_error_at_most(data: bytes | str) -> None:
    try:
        rows = csv.decode(data)
    except DecodeError:
        return
    assert all(rows)
