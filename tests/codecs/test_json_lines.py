"""JSON Lines."""

from __future__ import annotations

import json as stdlib_json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve_app.codecs import json, json_lines
from rayserve_app.errors import DecodeError, PredictError, RequestTooLarge

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(st.lists(VALUES, max_size=9))
def test_what_is_written_is_read(values: list[Any]) -> None:
    assert json_lines.decode(json_lines.encode(values), max_items=9) == values


@given(st.lists(VALUES, max_size=9), st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"]))
def test_lines_of_others_are_read(values: list[Any], end: str) -> None:
    text = end.join(map(stdlib_json.dumps, values))
    assert json_lines.decode(text.encode(), max_items=18) == values


def test_a_line_holds_one_document() -> None:
    with pytest.raises(DecodeError, match=r"not JSON: .* - at `lines\[1\]`"):
        json_lines.decode(b"[1]\n[2], [3]", max_items=9)
    with pytest.raises(DecodeError, match=r"at `lines\[0\]`"):
        json_lines.decode(b"[1,\n2]", max_items=9)


def test_there_may_be_so_many_lines() -> None:
    assert json_lines.decode(b"\n\n1\n2\n3\n", max_items=3) == [1, 2, 3]
    with pytest.raises(RequestTooLarge, match="at most 3"):
        json_lines.decode(b"1\n2\n3\n4", max_items=3)
    with pytest.raises(RequestTooLarge):
        json_lines.decode(b"1" + b"\n" * 9_000_000 + b"1", max_items=1000)


def test_all_lines_together_hold_no_more_than_one_document_may() -> None:
    line = b"[" + b"[]," * 1000 + b"[]]\n"
    with pytest.raises(DecodeError, match=f"at most {json.MAX_VALUES}"):
        json_lines.decode(line * 1000, max_items=1000)


def test_what_json_cannot_hold_is_the_models_fault() -> None:
    with pytest.raises(PredictError):
        json_lines.encode([1, object()])


def test_nan_is_a_token() -> None:
    assert json_lines.encode([1, float("nan")]) == b"1\nNaN\n"
