"""How long to measure, and how two things are compared: in turn, by the median of their ratios."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class Effort(NamedTuple):
    """How much a run measures."""

    rounds: int
    seconds: float
    """Of one measurement; each figure says how it uses them."""
    has_random_arrivals: bool = True
    """Whether the requests of an open loop come at random times, else at even ones."""


STANDARD = Effort(rounds=5, seconds=3.0)
QUICK = Effort(rounds=2, seconds=0.5)
"""Shows that everything runs; its figures mean nothing."""


async def interleave(
    rounds: int, first: Callable[[], Awaitable[A]], second: Callable[[], Awaitable[B]]
) -> list[tuple[A, B]]:
    """Measure A B A B ..., one pair per round."""
    return [(await first(), await second()) for _ in range(rounds)]


async def take_turns(
    rounds: int, measures: Sequence[Callable[[], Awaitable[A]]]
) -> list[tuple[A, ...]]:
    """Measure A B C A B C ...: one tuple for each of the measures, of its rounds in order."""
    measured = [[await measure() for measure in measures] for _ in range(rounds)]
    return list(zip(*measured, strict=True))
