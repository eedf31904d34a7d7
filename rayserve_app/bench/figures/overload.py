"""More than models can do: what they answer of it, how late, and how soon they refuse the rest.

Two models with unlike deadlines are overloaded at once; one gets images of which some take 200
times as long to decode as others; one computes on all cores. The capacity is that of closed loops
before and after, for a machine has other things to do as well. Requests come in an open loop,
`SECONDS_FACTOR * Effort.seconds` long, and do not heed `Retry-After`, as the worst clients do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final, NamedTuple

from rayserve_app.bench import pictures
from rayserve_app.bench.figures.figure import Figure
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, closed_loop, open_loop, percentile, warm_up
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort
from rayserve_app.bench.summary import stages

NAME: Final = "overload"
TIMES: Final = (2, 5)
"""What is offered, in capacities."""

LEAST_ANSWERED: Final = 0.9
MOST_OF_DEADLINE: Final = 0.5
MOST_REFUSAL_MS: Final = 50.0

SECONDS_FACTOR: Final = 4
"""A queue needs some seconds to show how long it becomes."""

CAPACITY_FACTOR: Final = 1
GRACE: Final = 1.5
"""How long answers are waited for, in deadlines."""

MOST_ROUNDS: Final = 2
MANY: Final = 700
"""Connections of a closed loop whose clients ask again at once."""

PLAIN_SIDE: Final = 2048


class Subject(NamedTuple):
    """A model to be overloaded."""

    application: str
    deadline_s: float
    bodies: Sequence[bytes]
    content_type: str
    connections: int
    """Of a closed loop that keeps the model busy."""

    def targets(self, instance: Instance) -> list[Target]:
        url = instance.url(f"/{self.application}/invocations")
        return [Target.post(url, body, self.content_type) for body in self.bodies]


BYTES: Final = ([b"0123456789"], "application/octet-stream")
HASTY: Final = Subject("hasty", 1.5, *BYTES, 16)
PATIENT: Final = Subject("patient", 6.0, *BYTES, 16)


def unlike_images() -> Subject:
    """Return a model and its images: three small ones for each that takes long to decode."""
    small = pictures.png(pictures.SMALL_SIDE)
    images = [small, small, pictures.plain_png(PLAIN_SIDE), small]
    return Subject("unlike-images", 3.0, images, "image/png", 8)


def embedding() -> Subject:
    image = pictures.jpeg(pictures.SIDE)
    return Subject("resnet-embedding", 10.0, [image], "image/jpeg", 24)


class Round(NamedTuple):
    """What was measured of one subject in one round."""

    before: Load
    overloaded: Load
    after: Load

    @property
    def capacity(self) -> float:
        """Answers per second of which the model is capable."""
        return (self.before.rate + self.after.rate) / 2


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    rows: list[Row] = []
    for together in ((HASTY, PATIENT), (unlike_images(),), (embedding(),)):
        for times in TIMES:
            rounds = [
                await run(instance, together, times, effort, seed)
                for seed in range(min(effort.rounds, MOST_ROUNDS))
            ]
            for subject, *of_one in zip(together, *rounds, strict=True):
                rows += rows_of(f"{subject.application}, {times} x capacity", subject, of_one)
    many = await run_many(instance, embedding(), effort)
    case = f"resnet-embedding, {MANY} connections"
    return [*rows, *rows_of(case, embedding(), [many], has_bounds=False)]


async def run(
    instance: Instance, together: Sequence[Subject], times: float, effort: Effort, seed: int
) -> list[Round]:
    """Measure what some models can do, all at once, then offer each so many times as much."""

    async def capacities() -> list[Load]:
        return await asyncio.gather(*(_capacity(instance, each, effort) for each in together))

    async def offer(subject: Subject, capacity: Load) -> Load:
        return await open_loop(
            subject.targets(instance),
            rate=times * capacity.rate,
            seconds=SECONDS_FACTOR * effort.seconds,
            seed=seed,
            poisson=effort.has_random_arrivals,
            grace_s=GRACE * subject.deadline_s,
        )

    await warm_up(*(each.targets(instance) for each in together), connections=8)
    before = await capacities()
    loads = await asyncio.gather(*map(offer, together, before))
    return [Round(*each) for each in zip(before, loads, await capacities(), strict=True)]


async def run_many(instance: Instance, subject: Subject, effort: Effort) -> Round:
    """Measure a model with so many callers that all come again at once, whatever they are told."""
    before = await _capacity(instance, subject, effort)
    load = await closed_loop(
        subject.targets(instance), connections=MANY, seconds=SECONDS_FACTOR * effort.seconds
    )
    return Round(before, load, await _capacity(instance, subject, effort))


async def _capacity(instance: Instance, subject: Subject, effort: Effort) -> Load:
    return await closed_loop(
        subject.targets(instance),
        connections=subject.connections,
        seconds=CAPACITY_FACTOR * effort.seconds,
    )


def rows_of(
    case: str, subject: Subject, rounds: Sequence[Round], *, has_bounds: bool = True
) -> Iterator[Row]:
    """Return how much of its capacity a model answered, how late, and how soon it refused."""
    loads = [each.overloaded for each in rounds]
    details = {
        "capacity_per_s": median(each.capacity for each in rounds),
        "answered_per_s": median(load.rate for load in loads),
        "refused": sum(len(load.refusals) for load in loads),
        "late": sum(load.errors - len(load.refusals) + load.unanswered for load in loads),
        "late_p99_ms": median(load.late_p99_ms for load in loads),
    }
    yield Row.of_rounds(
        NAME,
        case,
        [each.overloaded.rate / each.capacity for each in rounds],
        "x capacity",
        Bound("at least", LEAST_ANSWERED) if has_bounds else None,
        details,
        {case: loads},
    )
    yield Row.of_rounds(
        NAME,
        f"{case}, p99 of the answered",
        [_p99(load.latencies) / subject.deadline_s for load in loads],
        "x deadline",
        Bound("at most", MOST_OF_DEADLINE) if has_bounds else None,
        stages(loads),
    )
    yield Row.of_rounds(
        NAME,
        f"{case}, p99 of the refusals",
        [_p99(load.refusals) * 1e3 for load in loads],
        "ms",
        Bound("at most", MOST_REFUSAL_MS) if has_bounds else None,
        {},
    )


def _p99(latencies: Sequence[float]) -> float:
    return percentile(sorted(latencies), 99)


FIGURE: Final = Figure(NAME, ("hasty", "patient", "unlike-images", "resnet-embedding"), measure)
