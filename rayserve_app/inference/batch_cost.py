"""What work of some size costs: a straight line through what was measured of late."""

from __future__ import annotations

from copy import copy
from typing import Final, Self

MEMORY: Final = 16
MOST_MEMORY: Final = 64
HORIZON_S: Final = 1.0
"""Costs are averaged over so many measurements, or as many more as take so long together: what is
dear at times is to be remembered, and what has become dear to be noticed."""

LEAST_SPREAD: Final = 0.01
"""Variance of the sizes, relative to their mean's square, below which they say nothing of how the
costs grow with them."""

MOST_SURPRISE: Final = 4
"""How many times what was expected a measurement may be, when it is told how costs grow."""

WORTHWHILE: Final = 0.9
"""Share of the rate of full batches that smaller ones may cost."""


class Cost:
    """Seconds as `fixed_s + size * each_s`. As long as only one size was seen, they are taken to
    grow with it: who expects too much finds out soon, who expects too little is late first."""

    __slots__ = (
        "_count",
        "_covariance",
        "_proportional",
        "_size",
        "_variance",
        "each_s",
        "fixed_s",
        "has_slope",
        "usual_s",
    )

    def __init__(self) -> None:
        self.fixed_s = self.each_s = 0.0
        self._count = 0
        self._size = 0.0
        self.usual_s = 0.0
        """Seconds on average of late, 0 if nothing is known."""
        self._variance = self._covariance = 0.0
        self._proportional = 1.0
        """Of the mean seconds, the share that grows with the size."""
        self.has_slope = False
        """Whether that was seen, not only supposed."""

    def observe(self, size: float, seconds: float) -> None:
        """Learn from work of some size, above 0."""
        if self._count == 1 and 2 * seconds < self.usual_s and size >= self._size:
            self._count = 0  # the first call of a model does what others need not
        memory = HORIZON_S / self.usual_s if self.usual_s else MOST_MEMORY
        self._count = min(self._count + 1, max(MEMORY, int(min(memory, MOST_MEMORY))))
        share = 1 / self._count
        larger, longer = size - self._size, seconds - self.usual_s
        if self.has_slope:  # one pause of the machine says nothing of how costs grow
            longer = min(longer, (MOST_SURPRISE - 1) * self.of(size))
        self._size += share * larger
        self.usual_s += share * (seconds - self.usual_s)
        self._variance = (1 - share) * (self._variance + share * larger * larger)
        self._covariance = (1 - share) * (self._covariance + share * larger * longer)
        if self._variance > LEAST_SPREAD * self._size * self._size and self.usual_s:
            slope = self._covariance / self._variance
            self._proportional = min(max(0.0, slope * self._size / self.usual_s), 1.0)
            self.has_slope = True
        self.each_s = self._proportional * self.usual_s / self._size
        self.fixed_s = (1 - self._proportional) * self.usual_s

    def guess(self) -> Self:
        """Return what this says of other work, until some of that was measured."""
        guess = copy(self)
        guess._count = min(guess._count, 1)
        return guess

    def of(self, size: float) -> float:
        """Return the seconds that work of a size is expected to take."""
        return self.fixed_s + size * self.each_s

    def of_next(self, size: float) -> float:
        """Return the same of the work by which more becomes known: as much as usual, as long as
        nobody knows how costs grow."""
        return self.of(size) if self.has_slope else self.usual_s

    def of_batches(self, count: int, limit: int) -> float:
        """Return the seconds of so many items, in batches that are full but the last."""
        return -(-count // limit) * self.fixed_s + count * self.each_s

    def shortest_s(self, limit: int) -> float:
        """Return the seconds of the smallest batches that are worthwhile beside full ones: of one
        item, if the seconds grow with the size, and of many, if they do not."""
        return self.of_next(self.shortest(limit))

    def shortest(self, limit: int) -> float:
        """Return the size of these batches."""
        # size / of(size) = WORTHWHILE * limit / of(limit)
        least = WORTHWHILE * limit
        return max(1.0, least * self.fixed_s / (self.of(limit) - least * self.each_s or 1.0))
