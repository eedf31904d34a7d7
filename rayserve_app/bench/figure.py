"""What a figure is, the rows that it returns, and how two things are compared: in turn, by the
median of the rounds' ratios."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Requests, closed_loop, warm_up

T = TypeVar("T")


class Effort(NamedTuple):
    """How much a run measures."""

    rounds: int
    seconds: float
    """Of one measurement; each figure says how it uses them."""


STANDARD = Effort(rounds=5, seconds=3.0)
QUICK = Effort(rounds=2, seconds=0.5)
"""Shows that everything runs; its figures mean nothing."""


class Bound(NamedTuple):
    """A target, in the row's unit."""

    kind: Literal["at least", "at most"]
    value: float

    def margin(self, measured: float) -> float:
        """Return how many times better than the target a value is; under 1 if it misses it."""
        better, worse = measured, self.value
        if self.kind == "at most":
            better, worse = worse, better
        return better / worse if worse > 0 else math.inf


at_least = partial(Bound, "at least")
at_most = partial(Bound, "at most")


@dataclass(frozen=True)
class Row:
    """One measured value: the median of its rounds. The names of details end in their unit."""

    case: str
    rounds: Sequence[float]
    unit: str
    target: Bound | None = None
    loads: Mapping[str, Sequence[Load]] = field(default_factory=dict)
    """The loads behind the value, one per round, by what they were sent to: the report has their
    rates, percentiles and stages."""
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def measured(self) -> float:
        return median(self.rounds)

    @property
    def is_reached(self) -> bool | None:
        """Whether the target is reached; None without a target."""
        return None if self.target is None else self.target.margin(self.measured) >= 1


Measure: TypeAlias = Callable[[Instance, Effort], Awaitable[list[Row]]]


class Figure(NamedTuple):
    """A few rows of the table that belong together."""

    applications: tuple[str, ...]
    """What runs in the instance meanwhile: of the Serve YAML, or of applications.yaml."""
    measure: Measure
    starts_itself: bool = False
    """It gets an instance of its own, which is not started."""


class MeasurementFailed(Exception):
    """What was measured did not work, so its figures would mean nothing."""


def require_no_errors(loads: Mapping[str, Sequence[Load]]) -> None:
    """Raise MeasurementFailed if a request was not answered 200."""
    for name, of_one in loads.items():
        if errors := sum(load.errors + load.unanswered for load in of_one):
            raise MeasurementFailed(f"{name}: {errors} requests were not answered 200")


async def take_turns(
    rounds: int, measures: Mapping[str, Callable[[int], Awaitable[T]]]
) -> dict[str, list[T]]:
    """Measure A B C A B C ..., each with the number of the round, by their names."""
    found: dict[str, list[T]] = {name: [] for name in measures}
    for number in range(rounds):
        for name, measure in measures.items():
            found[name].append(await measure(number))
    return found


async def closed_loops(
    targets: Mapping[str, Requests], *, rounds: int, connections: int, seconds: float
) -> dict[str, list[Load]]:
    """Measure closed loops in turn, after a warm-up; all requests must be answered 200."""

    def loop(requests: Requests) -> Callable[[int], Awaitable[Load]]:
        return lambda _: closed_loop(requests, connections=connections, seconds=seconds)

    await warm_up(*targets.values(), connections=connections)
    loads = await take_turns(rounds, {name: loop(each) for name, each in targets.items()})
    require_no_errors(loads)
    return loads


def rate(load: Load) -> float:
    return load.rate


def p99(load: Load) -> float:
    return load.percentile(99)


def compare(
    case: str,
    unit: str,
    loads: Mapping[str, Sequence[Load]],
    target: Bound | None = None,
    *,
    by: Callable[[Load], float] = rate,
    details: Mapping[str, float] | None = None,
) -> Row:
    """Return the row of the first load's value over the second's of the same round."""
    first, second = [*loads.values()][:2]
    ratios = [by(one) / by(other) for one, other in zip(first, second, strict=True)]
    return Row(case, ratios, unit, target, loads, details or {})
