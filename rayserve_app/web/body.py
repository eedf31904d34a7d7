"""Puts a body together from the pieces in which it comes.

Each is copied when it is there, so that no step of the event loop copies all of a large body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np

from rayserve_app.types import Array, Buffer

STEP_BYTES: Final = 1 << 18
"""What may be copied at once. So much of a body must have come before memory is taken for as much
as it announces."""

SMALL_PIECE_BYTES: Final = 1 << 10
"""Smaller pieces are kept together: each by itself takes some 60 bytes more than the budget
counts."""


class Body:
    """One body that is coming in."""

    def __init__(self, announced: int | None) -> None:
        """Begin.

        Args:
            announced: its length, if the client says it.
        """
        self._announced = announced
        self._pieces: list[Buffer] = []
        self._length = 0
        self._whole: Array | None = None

    def append(self, piece: Buffer) -> None:
        start = self._length
        self._length += len(piece)
        if self._whole is not None and self._length <= len(self._whole):
            _copy([piece], self._whole[start : self._length])
            return
        if self._whole is not None:
            # It is longer than it should be.
            self._pieces = [self._whole[:start].data]
            self._whole = self._announced = None
        _append(self._pieces, piece)
        if self._announced is not None and STEP_BYTES <= self._length <= self._announced:
            self._whole = np.empty((self._announced,), np.uint8)
            _copy(self._pieces, self._whole)
            self._pieces = []

    async def joined(self) -> Buffer:
        """Return what has come."""
        if self._whole is not None:
            return self._whole[: self._length].data
        if self._length <= STEP_BYTES:
            return b"".join(self._pieces)
        whole = np.empty((self._length,), np.uint8)
        await asyncio.to_thread(_copy, self._pieces, whole)
        return whole.data


def _append(pieces: list[Buffer], piece: Buffer) -> None:
    if len(piece) >= SMALL_PIECE_BYTES:
        pieces.append(piece)
    elif pieces and isinstance(pieces[-1], bytearray):
        pieces[-1] += piece
    else:
        pieces.append(bytearray(piece))


def _copy(pieces: Sequence[Buffer], whole: Array) -> None:
    """Copy, with the GIL released."""
    start = 0
    for piece in pieces:
        whole[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
        start += len(piece)
