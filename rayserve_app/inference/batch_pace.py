"""What is learned of the batches of one bucket: how long they take, and how large they may be."""

from __future__ import annotations

import math
from typing import Final

from rayserve_app.inference.batch_cost import Cost

MEMORY: Final = 8
"""Batches over which times and sizes are averaged."""

MOST_SHRINK: Final = 0.5
LEAST_SHRINK: Final = 0.9
"""What becomes of a size that took too long, depending on how much too long. 0.9 is Clipper's."""

WORTHWHILE: Final = 0.8
"""Share of the target up to which a larger size is taken after a few trials."""

TRIALS: Final = 3
"""Full batches in time that are enough to tell."""

PATIENCE: Final = 20
"""Full batches in time before at least one more item is tried: at the best size one batch in about
so many is late."""


class Pace:
    """How long the batches of one bucket take."""

    def __init__(self, max_batch_size: int, longest_s: float = math.inf) -> None:
        """Start without knowledge.

        Args:
            longest_s: seconds of a batch at most, if smaller ones cost hardly more for each item.
        """
        self.limit = self._most = max_batch_size
        """Items of the next batch at most."""
        self._longest_s = longest_s
        self.usual_s = 0.0
        """Seconds that batches took of late, 0 if nothing is known."""
        self.cost = Cost()
        """What batches take by their items."""
        self._size = 0.0

    def observe(self, size: int, seconds: float) -> None:
        """Learn from a batch of so many items."""
        self.cost.observe(size, seconds)
        if self.cost.has_slope and self._longest_s < math.inf:
            self.limit = self._largest()
        usual_s = self.usual_s
        if not usual_s:
            self.usual_s, self._size = seconds, size
            return
        # A single pause of the machine says little about the next batch.
        change_s = seconds - usual_s
        self.usual_s = usual_s + (change_s if change_s < usual_s else usual_s) / MEMORY
        self._size += (size - self._size) / MEMORY

    def expected_s(self, size: int) -> float:
        """Return the seconds that a batch of so many items is expected to take: never more than
        usual, and of a smaller one less by as much as it is smaller, for so it may be."""
        if size >= self._size:
            return self.usual_s
        return self.usual_s * size / self._size

    def _largest(self) -> int:
        """Return the size of the largest batches that are no longer than they may be; of all, where
        such batches are not worthwhile."""
        cost, most = self.cost, self._most
        if cost.of(most) <= self._longest_s or not cost.each_s:
            return most
        size = (self._longest_s - cost.fixed_s) / cost.each_s
        return max(1, int(size)) if size >= cost.shortest(most) else most


class LearnedPace(Pace):
    """Learns the largest size whose batches take no longer than a target, from one item up.

    Clipper's scheme (additive increase, multiplicative decrease; Crankshaw et al., NSDI 2017,
    section 4.3.1), but where there is room the size is computed: since a batch has fixed costs, one
    k times as large takes at most k times as long. And a size that was late is not tried again at
    once, for models that pad their batches have steps.
    """

    def __init__(self, max_batch_size: int, target_s: float) -> None:
        super().__init__(max_batch_size)
        self.limit = 1
        self._target_s = target_s
        self._ceiling = max_batch_size
        self._in_time = 0
        self._longest = 0.0

    def observe(self, size: int, seconds: float) -> None:
        super().observe(size, seconds)
        share = seconds / self._target_s
        if share > 1:
            if size >= self.limit:
                self._ceiling = max(1, self.limit - 1)
            self._change(self.limit * min(max(1 / share, MOST_SHRINK), LEAST_SHRINK))
        elif size >= self.limit:
            self._in_time += 1
            self._longest = max(self._longest, share)
            self._grow()

    def _grow(self) -> None:
        if self._in_time < TRIALS:
            return
        if self.limit > self._ceiling:
            self._ceiling = self._most
        larger = min(self.limit / max(self._longest, MOST_SHRINK), self._ceiling)
        if self._in_time >= PATIENCE:
            self._change(max(larger, self.limit + 1))
        elif self._longest <= WORTHWHILE and larger >= self.limit + 1:
            self._change(larger)

    def _change(self, limit: float) -> None:
        self.limit = max(1, min(int(limit), self._most))
        self._in_time = 0
        self._longest = 0.0
