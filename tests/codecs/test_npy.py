from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from rayserve_app.codecs import npy
from rayserve_app.errors import DecodeError, PredictError
from rayserve_app.types import Array

GOLDEN = Path(__file__).parent / "golden" / "npy"
QUARTERS = np.arange(6, dtype="<f4").reshape(2, 3) / 4
fast = settings(derandomize=True, deadline=None, max_examples=50)
dtypes = hnp.scalar_dtypes() | hnp.byte_string_dtypes() | hnp.unicode_string_dtypes()
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, min_side=0))


def saved(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("float32", QUARTERS),
        ("version2", QUARTERS),
        ("version3", QUARTERS),
        ("big_endian", np.arange(6, dtype=">i2").reshape(3, 2)),
        ("fortran", np.arange(6.0).reshape(2, 3)),
        ("text", np.array(["a", "é"])),
        ("scalar", np.array(7, np.uint8)),
        ("empty", np.zeros((0, 4))),
    ],
)
def test_reads_what_numpy_saved(name: str, expected: Array) -> None:
    array = npy.decode((GOLDEN / f"{name}.npy").read_bytes())
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected, strict=True)


@fast
@given(arrays, st.booleans())
def test_writes_what_numpy_saves_in_c_order(array: Array, transposed: bool) -> None:
    array = array.T if transposed else array
    data = b"".join(npy.encode(array))
    assert data == saved(np.asarray(array, order="C"))
    again = npy.decode(data)
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert again.tobytes() == array.tobytes()


@fast
@given(arrays)
def test_reads_both_orders(array: Array) -> None:
    assert npy.decode(saved(array.T)).tobytes() == array.T.tobytes()


def test_decoding_is_a_read_only_view() -> None:
    data = bytearray(saved(QUARTERS))
    array = npy.decode(memoryview(data))
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))
    assert not array.flags.writeable


def test_encoding_copies_nothing_that_is_contiguous() -> None:
    header, body = npy.encode(QUARTERS)
    assert np.shares_memory(np.frombuffer(body, np.uint8), QUARTERS)
    assert isinstance(body, memoryview)
    assert (body.format, body.nbytes, len(header) % 64) == ("B", QUARTERS.nbytes, 0)


def test_header_takes_numpy_lengths() -> None:
    shape: Any = (np.int64(2), np.int64(3))
    assert npy.header(QUARTERS.dtype, shape) == saved(QUARTERS)[: -QUARTERS.nbytes]


def test_an_image_is_called_one() -> None:
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "PNG")
    with pytest.raises(DecodeError, match="It is a PNG image, whose type is image/png"):
        npy.decode(file.getvalue())


def test_objects_are_not_written() -> None:
    with pytest.raises(PredictError, match=r"got object$"):
        npy.encode(np.array([{}], object))


def written(header: str) -> bytes:
    text = header.encode()
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "not a .npy array: expected magic"),
        (b"\x93NUMPY\1\0", "not a .npy array"),
        (b"PK\3\4" * 9, "not a .npy array"),
        (b"\x93NUMPY\4\0" + bytes(9), "version: expected 1.0, 2.0 or 3.0, got 4.0"),
        (b"\x93NUMPY\2\0\xff\xff\xff\xff{", "header is out of bounds: expected at most 1 bytes"),
        (b"\x93NUMPY\1\0\xff\xff" + b" " * 70000, "expected at most 4096 bytes, got 65535"),
        (written("{'descr': "), "not a Python literal"),
        (written("(" * 3000), "not a Python literal"),
        (written("__import__('os')"), "not a Python literal"),
        (written("{'descr': '<f4', 'shape': (1,)}"), "expected a dictionary of"),
        (written("{'descr': '<f4', 'fortran_order': 0, 'shape': ()}"), "at `fortran_order`"),
        (written("{'descr': '<f4', 'fortran_order': False, 'shape': [1]}"), "at `shape`"),
        (written("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "at `shape`"),
        (written("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}"), "at `shape`"),
        (written("{'descr': '|O', 'fortran_order': False, 'shape': ()}"), "never pickled"),
        (written("{'descr': 'i4,O', 'fortran_order': False, 'shape': ()}"), "never pickled"),
        (written("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}"), "simple type"),
        (written("{'descr': 'what', 'fortran_order': False, 'shape': ()}"), "got 'what' - at"),
        (written("{'descr': '<f4', 'fortran_order': False, 'shape': (9**9,)}"), "literal"),
        (written("{'descr': '<f4', 'fortran_order': 1<2, 'shape': ()}"), "literal"),
        (written(f"{{'descr': '<f4', 'fortran_order': False, 'shape': (0, {2**63})}}"), "not a"),
        (written(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(0,) * 99}}}"), "not a"),
        ((GOLDEN / "objects.npy").read_bytes(), "never pickled objects.*got '|O' - at `descr`"),
        (saved(QUARTERS)[:-1], r"expected 24 bytes for float32 \(2, 3\), got 23"),
        (saved(QUARTERS) + b"\0", "got 25"),
    ],
)
def test_refuses(data: bytes, sentence: str) -> None:
    with pytest.raises(DecodeError, match=sentence):
        npy.decode(data)


@fast
@given(st.binary(), st.sampled_from([b"", b"\x93NUMPY\1\0\x20\0", b"\x93NUMPY\3\0\x20\0\0\0{"]))
def test_arbitrary_bytes_raise_decode_error_at_most(data: bytes, head: bytes) -> None:
    with pytest.raises(DecodeError):
        npy.decode(head + data)


@fast
@given(st.integers(0, 127), st.integers(0, 255))
def test_a_changed_header_raises_decode_error_at_most(position: int, value: int) -> None:
    data = bytearray(saved(QUARTERS))
    data[position] = value
    try:
        npy.decode(data)
    except DecodeError:
        return
