"""What work of some size costs: a straight line through what was measured of late."""

from __future__ import annotations

from copy import copy
from typing import Final, Self

MEMORY: Final = 8
"""Measurements over which is averaged."""

LEAST_SPREAD: Final = 0.01
"""Variance of the sizes, relative to their mean's square, below which they say nothing of how the
costs grow with them."""

WORTHWHILE: Final = 0.95
"""Share of the rate of full batches that smaller ones may cost."""


class Cost:
    """Seconds as `fixed_s + size * each_s`. As long as only one size was seen, they are taken to
    grow with it: who expects too much finds out soon, who expects too little is late first."""

    __slots__ = (
        "_count",
        "_covariance",
        "_proportional",
        "_seconds",
        "_size",
        "_variance",
        "each_s",
        "fixed_s",
    )

    def __init__(self) -> None:
        self.fixed_s = self.each_s = 0.0
        self._count = 0
        self._size = self._seconds = 0.0
        self._variance = self._covariance = 0.0
        self._proportional = 1.0
        """Of the mean seconds, the share that grows with the size."""

    @property
    def is_known(self) -> bool:
        return self._count > 0

    @property
    def usual_s(self) -> float:
        """Seconds on average of late, 0 if nothing is known."""
        return self._seconds

    def observe(self, size: float, seconds: float) -> None:
        """Learn from work of some size, above 0."""
        self._count = min(self._count + 1, MEMORY)
        share = 1 / self._count
        larger, longer = size - self._size, seconds - self._seconds
        self._size += share * larger
        self._seconds += share * longer
        self._variance = (1 - share) * (self._variance + share * larger * larger)
        self._covariance = (1 - share) * (self._covariance + share * larger * longer)
        if self._variance > LEAST_SPREAD * self._size * self._size and self._seconds:
            slope = self._covariance / self._variance
            self._proportional = min(max(0.0, slope * self._size / self._seconds), 1.0)
        self.each_s = self._proportional * self._seconds / self._size
        self.fixed_s = (1 - self._proportional) * self._seconds

    def guess(self) -> Self:
        """Return what this says of other work, until some of that was measured."""
        guess = copy(self)
        guess._count = min(guess._count, 1)
        return guess

    def of(self, size: float) -> float:
        """Return the seconds that work of a size is expected to take."""
        return self.fixed_s + size * self.each_s

    def of_batches(self, count: int, limit: int) -> float:
        """Return the seconds of so many items, in batches that are full but the last."""
        return -(-count // limit) * self.fixed_s + count * self.each_s

    def shortest_s(self, limit: int) -> float:
        """Return the seconds of the smallest batches that are worthwhile beside full ones: any, if
        the seconds grow with the size, and nearly full ones if they do not."""
        fixed_s, full_s = self.fixed_s, self.of(limit)
        if not fixed_s:
            return 0.0
        # Of size s: s / of(s) = WORTHWHILE * limit / full_s
        size = WORTHWHILE * limit * fixed_s / (full_s - WORTHWHILE * limit * self.each_s)
        return self.of(size)
