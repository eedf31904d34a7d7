"""How long lists are cut into requests."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve_app.client.images import Element
from rayserve_app.client.parts import Bounds, check_size, cut, join
from rayserve_app.codecs import npy
from rayserve_app.errors import RequestTooLarge

PACKED = "application/x-packed-jpeg"

BOUNDS = st.builds(Bounds, st.integers(1, 5), st.integers(40, 200), st.integers(1, 100))


def element(size: int, pixels: int = 0) -> Element:
    return Element(bytes([size % 251 + 1]) * size, PACKED, PACKED, pixels)


STREAMED = st.lists(st.builds(element, st.integers(1, 36), st.integers(0, 60)), max_size=30)


def read_stream(stream: bytes) -> list[bytes]:
    """Read a packed stream as its specification says."""
    found = []
    while stream:
        (length,) = struct.unpack(">I", stream[:4])
        found.append(stream[4 : 4 + length])
        stream = stream[4 + length :]
    return found


@given(STREAMED, BOUNDS)
def test_streams_hold_all_images_in_order_within_the_limits(
    elements: list[Element], bounds: Bounds
) -> None:
    start, sent = 0, []
    for group in cut(elements, bounds):
        part = join(group, start)
        assert part.start == start
        assert len(part.body) <= bounds.body_bytes
        images = read_stream(part.body)
        assert 1 <= len(images) == part.item_count <= bounds.items
        # An image that is too large by itself travels alone: the server refuses it by name.
        assert len(group) == 1 or sum(each.pixels for each in group) <= bounds.pixels
        sent += images
        start = part.stop
    assert sent == [each.data for each in elements]


@given(STREAMED, BOUNDS)
def test_no_two_neighbouring_streams_would_fit_in_one(
    elements: list[Element], bounds: Bounds
) -> None:
    groups = list(cut(elements, bounds))
    for left, right in pairwise(groups):
        joined = [*left, right[0]]
        assert (
            len(joined) > bounds.items
            or sum(4 + each.size for each in joined) > bounds.body_bytes
            or sum(each.pixels for each in joined) > bounds.pixels
        )


@given(
    st.lists(
        st.tuples(st.sampled_from(["f4", "u1"]), st.sampled_from([(2,), (3,)])),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 4),
)
def test_only_arrays_of_one_kind_are_stacked(
    kinds: list[tuple[str, tuple[int, ...]]], most: int
) -> None:
    arrays = [np.full(shape, number, dtype) for number, (dtype, shape) in enumerate(kinds)]
    elements = [
        Element(array, "application/x-npy", (array.dtype.str, array.shape)) for array in arrays
    ]
    sent: list[np.ndarray] = []
    for group in cut(elements, Bounds(most, 10_000, 1)):
        part = join(group, len(sent))
        stacked = npy.decode(part.body)
        assert part.is_batch
        assert len(stacked) == part.item_count <= most
        assert len(part.body) <= 256 * len(group) + stacked.nbytes
        sent += list(stacked)
    assert all(map(np.array_equal, sent, arrays))
    assert [each.dtype for each in sent] == [each.dtype for each in arrays]


def test_what_has_no_kind_travels_alone() -> None:
    elements = [Element(b"1", "image/jpeg")] * 3
    assert [len(group) for group in cut(elements, Bounds(10, 10, 10))] == [1, 1, 1]


def test_an_image_that_just_fits_is_sent() -> None:
    bounds = Bounds(1, 14, 1)
    assert check_size(element(10), bounds).size == 10
    with pytest.raises(RequestTooLarge, match="at most 14 bytes, got 11"):
        check_size(element(11), bounds)


def test_no_more_than_one_image_is_read_ahead() -> None:
    taken = 0

    def elements() -> object:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield element(10)

    groups = cut(elements(), Bounds(4, 1000, 1))  # type: ignore[arg-type]
    next(groups)
    assert taken == 5
