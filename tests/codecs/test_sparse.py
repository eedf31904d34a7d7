"""Sparse tensors in JSON; expected arrays are written out or made by scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array

from rayserve_app.codecs.sparse import decode, is_sparse
from rayserve_app.errors import InvalidRequest, RequestTooLarge


def test_a_sparse_tensor_is_told_by_its_keys() -> None:
    assert is_sparse({"shape": [1], "data": [], "indices": []})
    assert not is_sparse({"shape": [1], "data": []})
    assert not is_sparse({"shape": [1], "data": [], "indices": [], "name": "a"})
    assert not is_sparse([1])


def test_the_documentations_example() -> None:
    indices = [[1, 1, 1], [2, 2, 2], [3, 3, 3], [4, 4, 4]]
    value = {"shape": [100, 10000, 10], "data": [0.2, 0.5, 3.45, 6.78], "indices": indices}
    dense = decode(value, max_bytes=40_000_000)
    assert (dense.shape, dense.dtype) == ((100, 10000, 10), np.float32)
    assert dense[1, 1, 1] == np.float32(0.2)
    assert dense[4, 4, 4] == np.float32(6.78)
    assert np.count_nonzero(dense) == 4


def test_integers_stay_integers_and_equal_places_add_up() -> None:
    value = {"shape": [2, 3], "data": [5, 6, 7], "indices": [[0, 2], [1, 0], [0, 2]]}
    dense = decode(value, max_bytes=100)
    assert dense.dtype == np.int64
    assert dense.tolist() == [[0, 0, 12], [6, 0, 0]]


def test_indices_may_stand_in_one_list_per_dimension() -> None:
    value = {"shape": [2, 3], "data": [5.0, 6.0, 7.0], "indices": [[0, 1, 0], [2, 0, 1]]}
    assert decode(value, max_bytes=100).tolist() == [[0, 7, 5], [6, 0, 0]]


@pytest.mark.parametrize("shape", [[2], [0, 3], []])
def test_a_tensor_without_values_is_zero(shape: list[int]) -> None:
    value = {"shape": shape, "data": [], "indices": []}
    assert decode(value, max_bytes=24).tolist() == np.zeros(shape).tolist()


@pytest.mark.parametrize(
    "changed",
    [
        {"shape": "2"},
        {"shape": [-1, 3]},
        {"shape": [2.5, 3]},
        {"shape": [[2, 3]]},
        {"shape": [2]},
        {"shape": [1] * 40},
        {"data": ["a", "b"]},
        {"data": [1]},
        {"data": [[1, 2]]},
        {"data": [True, False]},
        {"indices": [[0, 0], [2, 0]]},
        {"indices": [[0, 0], [0, -1]]},
        {"indices": [[0, 0], [0]]},
        {"indices": [0, 1]},
        {"indices": None},
        {"indices": [[0.5, 0], [1, 0]]},
    ],
    ids=str,
)
def test_what_is_no_sparse_tensor_is_refused(changed: dict[str, Any]) -> None:
    value = {"shape": [2, 3], "data": [1, 2], "indices": [[0, 0], [1, 1]]} | changed
    with pytest.raises(InvalidRequest):
        decode(value, max_bytes=1000)


@pytest.mark.parametrize("shape", [[25], [10**9, 10**9, 10**9], [0, 10**18], [2**62, 2**62]])
def test_the_dense_tensor_is_bounded_before_it_is_made(shape: list[int]) -> None:
    with pytest.raises(RequestTooLarge, match="at most 96 bytes"):
        decode({"shape": shape, "data": [], "indices": []}, max_bytes=96)


@settings(derandomize=True, deadline=None, database=None)
@given(st.data())
def test_scipy_makes_the_same_matrix(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    places = data.draw(
        st.lists(st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1)), max_size=9)
    )
    values = [float(number) for number in range(1, len(places) + 1)]
    sparse = coo_array(
        (values, np.array(places, int).reshape(-1, 2).T), shape=(rows, columns)
    ).toarray()
    value = {"shape": [rows, columns], "data": values, "indices": [list(p) for p in places]}
    np.testing.assert_array_equal(decode(value, max_bytes=1000), sparse)


def test_large_integers_stay_exact() -> None:
    for data in ([2**24 + 1, -(2**53) - 1], [2**64 - 1, 1]):
        found = decode({"shape": [3], "data": data, "indices": [[0], [2]]}, max_bytes=1000)
        assert found.tolist() == [data[0], 0, data[1]]
