from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.codecs import json_metadata
from rayserve_app.codecs.json_metadata import EncodedImage
from rayserve_app.errors import DecodeError, PredictError

fast = settings(derandomize=True, deadline=None, max_examples=50)


def test_every_key_but_data_is_metadata() -> None:
    text = '{"format": "png", "data": "iVBORw==", "size": [2, 1]}'
    expected = EncodedImage(b"\x89PNG", {"format": "png", "size": [2, 1]})
    assert json_metadata.decode(text) == expected
    assert json_metadata.decode(memoryview(text.encode())) == expected
    assert json_metadata.decode(json.loads(text)) == expected


def test_the_callers_object_stays_as_it_was() -> None:
    value = {"data": "", "format": "png"}
    image = json_metadata.decode(value)
    image.metadata["more"] = 1
    assert value == {"data": "", "format": "png"}


@fast
@given(st.binary(), st.dictionaries(st.text(), st.booleans() | st.text()))
def test_round_trip(data: bytes, fields: dict[str, Any]) -> None:
    text = json_metadata.encode(EncodedImage(data, fields))
    fields.pop("data", None)
    assert json.loads(text) == {"data": base64.b64encode(data).decode(), **fields}
    assert next(iter(json.loads(text))) == "data"
    assert json_metadata.decode(text) == EncodedImage(data, fields)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object, got an array"),
        ({}, "missing: expected an image in base64 - at `data`$"),
        ({"data": None}, "expected a base64 string, got NoneType - at `data`$"),
        ('{"data": 7}', "got int - at `data`$"),
        ({"data": "a?"}, r"got '\?' at offset 1 - at `data`$"),
    ],
)
def test_refuses(value: Any, sentence: str) -> None:
    with pytest.raises(DecodeError, match=sentence):
        json_metadata.decode(value)


def test_metadata_must_fit_json() -> None:
    with pytest.raises(PredictError, match="type object"):
        json_metadata.encode(EncodedImage(b"", {"icon": object()}))


@fast
@given(
    st.binary() | st.text() | st.dictionaries(st.just("data") | st.text(), st.text() | st.none())
)
def test_arbitrary_values_raise_decode_error_at_most(value: Any) -> None:
    try:
        json_metadata.decode(value)
    except DecodeError:
        return
