"""More than models can do: what they answer of it, how late, and how soon they refuse the rest.

Two models with different deadlines are overloaded at once; one gets images of which some take 200
times as long to decode as others; one computes on all cores. The capacity is that of closed loops
before and after, for a machine has other things to do as well. Requests come in an open loop, four
times `Effort.seconds` long, and do not heed `Retry-After`, as the worst clients do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

from rayserve_app.bench import pictures
from rayserve_app.bench.figure import Effort, Figure, Row, at_least, at_most
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, closed_loop, open_loop, percentile, warm_up

TIMES: Final = (2, 5)
"""What is offered, in capacities."""

ANSWERED, OF_DEADLINE, REFUSAL_MS = at_least(0.9), at_most(0.5), at_most(50)
SECONDS_FACTOR: Final = 4
"""A queue needs some seconds to show how long it becomes."""

GRACE: Final = 1.5
"""How long answers are waited for, in deadlines."""

MOST_ROUNDS: Final = 2
PLAIN_SIDE: Final = 2048


class Subject(NamedTuple):
    """A model to be overloaded."""

    application: str
    deadline_s: float
    connections: int
    """Of a closed loop that keeps the model busy."""
    content_type: str
    bodies: Sequence[bytes]

    def targets(self, instance: Instance) -> list[Target]:
        return [instance.target(self.application, body, self.content_type) for body in self.bodies]


class Round(NamedTuple):
    """What was measured of one subject in one round."""

    before: Load
    overloaded: Load
    after: Load

    @property
    def capacity(self) -> float:
        """Answers per second of which the model is capable."""
        return (self.before.rate + self.after.rate) / 2


def subjects() -> list[list[Subject]]:
    """Return the models, those together that are overloaded at once."""
    small = pictures.png(pictures.SMALL_SIDE)
    images = [small, small, pictures.plain_png(PLAIN_SIDE), small]
    jpeg = pictures.jpeg(pictures.SIDE)
    return [
        [
            Subject("hasty", 1.5, 16, "application/octet-stream", [b"0123456789"]),
            Subject("patient", 6.0, 16, "application/octet-stream", [b"0123456789"]),
        ],
        [Subject("unlike-images", 3.0, 8, "image/png", images)],
        [Subject("resnet-embedding", 10.0, 24, "image/jpeg", [jpeg])],
    ]


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    rows: list[Row] = []
    for together in subjects():
        for times in TIMES:
            rounds = [
                await run(instance, together, times, effort, seed)
                for seed in range(min(effort.rounds, MOST_ROUNDS))
            ]
            for subject, *of_one in zip(together, *rounds, strict=True):
                case = f"{subject.application}, {times} x capacity"
                rows += rows_of(case, subject.deadline_s, of_one)
    return rows


async def run(
    instance: Instance, together: Sequence[Subject], times: float, effort: Effort, seed: int
) -> list[Round]:
    """Measure what some models can do, all at once, then offer each so many times as much."""

    async def capacity(subject: Subject) -> Load:
        targets = subject.targets(instance)
        return await closed_loop(targets, connections=subject.connections, seconds=effort.seconds)

    async def offer(subject: Subject, capacity: Load) -> Load:
        return await open_loop(
            subject.targets(instance),
            rate=times * capacity.rate,
            seconds=SECONDS_FACTOR * effort.seconds,
            seed=seed,
            grace_s=GRACE * subject.deadline_s,
        )

    await warm_up(*(each.targets(instance) for each in together), connections=8)
    before = await asyncio.gather(*map(capacity, together))
    loads = await asyncio.gather(*map(offer, together, before))
    after = await asyncio.gather(*map(capacity, together))
    return [Round(*each) for each in zip(before, loads, after, strict=True)]


def rows_of(case: str, deadline_s: float, rounds: Sequence[Round]) -> list[Row]:
    """Return how much of its capacity a model answered, how late, and how soon it refused."""
    loads = [each.overloaded for each in rounds]
    details = {
        "capacity_per_s": median(each.capacity for each in rounds),
        "refused": sum(len(load.refusals) for load in loads),
        "late": sum(load.errors - len(load.refusals) + load.unanswered for load in loads),
    }
    answered = [each.overloaded.rate / each.capacity for each in rounds]
    of_deadline = [_p99(load.latencies) / deadline_s for load in loads]
    refusals_ms = [_p99(load.refusals) * 1e3 for load in loads]
    return [
        Row(case, answered, "x capacity", ANSWERED, {"overloaded": loads}, details),
        Row(f"{case}, p99 of the answered", of_deadline, "x deadline", OF_DEADLINE),
        Row(f"{case}, p99 of the refusals", refusals_ms, "ms", REFUSAL_MS),
    ]


def _p99(latencies: Sequence[float]) -> float:
    return percentile(sorted(latencies), 99)


FIGURE: Final = Figure(("hasty", "patient", "unlike-images", "resnet-embedding"), measure)
