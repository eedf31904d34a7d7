"""Bodies put together from their pieces."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve_app.web.body import SMALL_PIECE_BYTES, STEP_BYTES, Body

SIZES = (0, 1, SMALL_PIECE_BYTES - 1, SMALL_PIECE_BYTES, 70_000, STEP_BYTES)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Return the data in pieces of these sizes, and what is left."""
    places = [0]
    for size in sizes:
        places.append(min(places[-1] + size, len(data)))
    return [data[start:stop] for start, stop in pairwise([*places, len(data)])]


@given(
    st.sampled_from((0, 1, STEP_BYTES - 1, STEP_BYTES, 3 * STEP_BYTES)),
    st.lists(st.sampled_from(SIZES), max_size=8),
    st.sampled_from((None, "right", "too short", "too long")),
)
def test_a_body_is_its_pieces_whatever_was_announced(
    length: int, sizes: list[int], announced: str | None
) -> None:
    said = {None: None, "right": length, "too short": length // 2, "too long": 2 * length + 1}
    data = os.urandom(length)
    body = Body(said[announced])
    for piece in cut(data, sizes):
        body.append(piece)
    assert asyncio.run(body.joined()) == data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_pieces_of_every_kind_of_buffer(kind: type) -> None:
    body = Body(2 * STEP_BYTES)
    for _ in range(2):
        body.append(kind(b"a" * STEP_BYTES))
    assert asyncio.run(body.joined()) == b"a" * 2 * STEP_BYTES
