from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rayserve_app.codecs import raw
from rayserve_app.errors import PredictError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\0\xff", b"\0\xff"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"abc")[1:], b"bc"),
        ("grün", b"gr\xc3\xbcn"),
        (np.array([[1, 2], [3, 4]], ">u2"), b"\0\1\0\2\0\3\0\4"),
        (np.array([[1, 3], [2, 4]], np.uint8).T, b"\1\2\3\4"),
        (np.array(5, np.uint8), b"\5"),
        (np.zeros((0, 3)), b""),
    ],
)
def test_bytes_text_and_arrays(value: Any, expected: bytes) -> None:
    assert raw.encode(value) == expected
    assert type(raw.encode(value)) is bytes


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (1.5, "expected bytes, text or an array, got type float$"),
        (None, "got type NoneType$"),
        ([b"a"], "got type list$"),
        (np.array([None]), "got type NoneType$"),
        ("\ud800", "UTF-8, got str, surrogates not allowed$"),
    ],
)
def test_refuses_other_types(value: Any, sentence: str) -> None:
    with pytest.raises(PredictError, match=sentence):
        raw.encode(value)
