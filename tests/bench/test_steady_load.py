"""A steady load, and what is read from its outcomes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rayserve_app.bench.figure import Bound
from rayserve_app.bench.figures.faults import FAULTS, rows_of
from rayserve_app.bench.load import Target
from rayserve_app.bench.served import serving
from rayserve_app.bench.steady_load import Asked, Outcome, Outcomes, SteadyLoad

A, B = (Asked(name, 3.0, Target("", 0, b"")) for name in ("image-example", "digits"))


def outcomes(*told: tuple[float, float, int], asked: Asked = A) -> Outcomes:
    json = "application/json"
    return Outcomes(Outcome(asked, sent, ended, status, json) for sent, ended, status in told)


def test_what_is_lost_is_what_no_protocol_says() -> None:
    told = outcomes((0, 1, 200), (0, 1, 503), (0, 1, 0), (0, 1, 500), (0, 4.5, 504))
    told.append(Outcome(A, 0, 1, 503, "text/plain"))
    assert (told.lost, told.refused) == (3, 2)
    assert told.statuses == {"status_0": 1, "status_500": 1, "status_503": 2, "status_504": 1}
    assert told.latest_s == 1.5


def test_the_gap_counts_from_the_fault_on_and_good_answers_only() -> None:
    told = outcomes((0, 1, 200), (1, 2, 200), (2, 3, 503), (2, 5, 200))
    assert told.longest_gap_s(1.5, 6.0) == 3.0
    assert told.since(2.5).longest_gap_s(2.5, 6.0) == 2.5
    assert told.longest_gap_s(1.5, 9.0) == 4.0
    assert told.of(["digits"]).longest_gap_s(1.0, 9.0) == 8.0


def test_a_fault_has_a_row_for_what_is_lost_and_one_for_the_gap() -> None:
    (update,) = (each for each in FAULTS if not each.title)
    direct = outcomes((0, 0.1, 200), (0, 0.3, 200)) + outcomes((0, 0.9, 200), asked=B)
    ways = {"direct": Outcomes(direct), "gateway": outcomes((0, 0.2, 0), (0, 0.6, 200))}
    lost, gap = rows_of(update, (0.0, 0.7), ways)
    assert (lost.measured, lost.unit, lost.target) == (1, "of 5", Bound("at most", 0))
    assert (lost.details["direct_lost"], lost.details["gateway_lost"]) == (0, 1)
    assert (gap.measured, gap.details["direct_s"]) == (0.6, pytest.approx(0.4))
    assert gap.target == Bound("at most", 0.2)


async def test_every_request_has_an_outcome() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        status = 503 if scope["path"] == "/busy" else 200
        headers = [(b"content-length", b"0"), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    with serving(app) as port:
        url = f"http://127.0.0.1:{port}"
        asked = [
            Asked(path, 3.0, Target.post(f"{url}/{path}", b"", "image/png"))
            for path in ("fine", "busy")
        ]
        async with SteadyLoad(asked, 200.0) as load:
            while len(load.outcomes) < 20:
                await asyncio.sleep(0.01)
    assert {(each.asked.model, each.status) for each in load.outcomes} == {
        ("fine", 200),
        ("busy", 503),
    }
    assert load.outcomes.refused >= 9
    closed = [Asked("gone", 3.0, Target.post(f"{url}/", b"", "image/png"))]
    async with SteadyLoad(closed, 200.0) as load:
        while not load.outcomes:
            await asyncio.sleep(0.01)
    assert {each.status for each in load.outcomes} == {0}
