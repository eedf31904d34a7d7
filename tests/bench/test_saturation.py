"""The search for a server's limit, with servers of which queueing theory tells it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from rayserve_app.bench.load import Load, Target, arrivals
from rayserve_app.bench.saturation import MOST_STEPS, find, keeps_up, next_rate, search
from tests.bench.echo import echo_server

SECONDS = 9.0
GRACE_S = 2.0


def serve(rate: float, batch_s: float, most: int, seed: int) -> Load:
    """Simulate a queue of Poisson arrivals and a server that takes `batch_s` for up to `most` of
    them at a time: M/D/1 if that is one. It is stable below `most / batch_s` per second."""
    due = arrivals(rate, SECONDS, seed=seed)
    latencies: list[float] = []
    free_at = 0.0
    while len(latencies) < len(due):
        first = len(latencies)
        started_at = max(free_at, due[first])
        batch = [due_at for due_at in due[first : first + most] if due_at <= started_at]
        free_at = started_at + batch_s
        if free_at > SECONDS + GRACE_S:
            break
        latencies += [free_at - due_at for due_at in batch]
    waiting = len(due) - len(latencies)
    seconds = SECONDS + GRACE_S if waiting else max(SECONDS, free_at)
    return Load(latencies, 0, waiting, seconds, 0.0)


def test_the_simulation_waits_as_long_as_theory_says() -> None:
    """Pollaczek-Khinchine for M/D/1: the mean wait is load / (2 (1 - load)) of a service."""
    service_s, utilisation = 0.005, 0.5
    latencies = [
        latency
        for seed in range(20)
        for latency in serve(utilisation / service_s, service_s, 1, seed).latencies
    ]
    wait_s = sum(latencies) / len(latencies) - service_s
    assert wait_s == pytest.approx(utilisation / (2 * (1 - utilisation)) * service_s, rel=0.1)


@pytest.mark.parametrize(("batch_s", "most"), [(0.005, 1), (0.0005, 1), (0.05, 32), (0.2, 20)])
@pytest.mark.parametrize("guess", [0.3, 1.0, 3.0])
async def test_the_limit_is_found_from_any_guess(batch_s: float, most: int, guess: float) -> None:
    limit = most / batch_s
    seeds = itertools.count()

    async def offer(rate: float) -> Load:
        return serve(rate, batch_s, most, next(seeds))

    found = await find(offer, guess * limit)
    assert 0.85 * limit <= found.per_s <= 1.06 * limit
    assert len(found.steps) <= MOST_STEPS
    assert keeps_up(found.steps[found.per_s])
    assert all(rate <= found.per_s or not keeps_up(load) for rate, load in found.steps.items())


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, True), (0.8, True), (1.1, False), (1.5, False), (5.0, False)]
)
def test_a_queue_that_grows_is_not_kept_up_with(share: float, expected: bool) -> None:
    loads = [serve(share * 1000, 0.001, 1, seed) for seed in range(5)]
    assert [keeps_up(load) for load in loads] == [expected] * 5


@pytest.mark.parametrize(
    "load",
    [
        Load([0.1] * 300, 1, 0, 3.0, 0.0),
        Load([0.1] * 300, 0, 1, 3.0, 0.0),
        Load([], 0, 0, 3.0, 0.0),
    ],
    ids=["an error", "no answer in time", "no answer"],
)
def test_every_request_must_be_answered(load: Load) -> None:
    assert not keeps_up(load)


def test_slow_answers_are_kept_up_with_if_they_stay_so() -> None:
    """Half a second each, at the end as at the beginning: a batch of that length, say."""
    assert keeps_up(Load([0.5, 0.4, 0.6] * 100, 0, 0, 3.5, 0.0))


@pytest.mark.parametrize(
    ("limit", "expected"), [(90, [100, 83.3, 91.7, 87.5]), (130, [100, 120, 144, 132, 126])]
)
def test_rates_close_in_on_the_limit(limit: float, expected: list[float]) -> None:
    rates: list[float] = []
    kept = missed = None
    while (rate := next_rate(100, kept, missed)) is not None:
        rates.append(round(rate, 1))
        kept, missed = (rate, missed) if rate <= limit else (kept, rate)
    assert rates == expected


async def test_what_never_keeps_up_ends_the_search() -> None:
    async def offer(rate: float) -> Load:
        return Load([0.1], 1, 0, 1.0, 0.0)

    found = await find(offer, 100)
    assert found.per_s == 0
    assert len(found.steps) == MOST_STEPS


def test_a_real_server_is_offered_rates_around_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rayserve_app.bench.saturation.MOST_STEPS", 3)

    async def run() -> None:
        with echo_server() as url:
            target = Target.post(f"{url}/", b"x", "text/plain")
            found = await search([target, target], seconds=0.2, connections=2)
        assert 1 <= len(found.steps) <= 3
        assert found.per_s in {0, *found.steps}
        assert all(load.latencies for load in found.steps.values())

    asyncio.run(run())
