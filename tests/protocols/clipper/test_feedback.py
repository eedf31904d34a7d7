"""Feedback, and what metrics tell of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rayserve_app.app import create_app
from tests.protocols import call, create_model
from tests.protocols.clipper.messages import create_echo, predict

UPDATE_SCHEMA = (
    '\n  {\n   "uid" := string,\n   "input" := [double] | [int] | [string] | [byte] | [float],\n'
    '   "label" := double\n  }\n'
)


# clipper_admin's integration tests: closures as they stand there.
async def test_a_closure_of_lengths() -> None:
    app = create_app(create_model(lambda xs: [str(len(x)) for x in xs], input={"type": "doubles"}))
    assert (await predict(app, {"input": [101.1, 99.5, 107.2]})).json()["output"] == 3


async def test_single_and_batch_have_the_same_output() -> None:
    app = create_app(create_model(lambda xs: [str(sum(x)) for x in xs], input={"type": "doubles"}))
    vectors = [[1.5, 2.0], [0.1, 0.2], [7.0], [3.25, -3.5]]
    single = [(await predict(app, {"input": each})).json()["output"] for each in vectors]
    batch = (await predict(app, {"input_batch": vectors})).json()["batch_predictions"]
    assert [answer["output"] for answer in batch] == single
    assert single == pytest.approx([3.5, 0.3, 7, -0.25])


FEEDBACK = {"uid": 23, "input": [1.4, 2.23, 3.243242, 0.3223424], "label": 1.0}


@pytest.mark.parametrize("path", ["/update", "/update/"])
async def test_feedback_is_acknowledged(path: str) -> None:
    # query_frontend_tests.cpp, TestDecodeCorrectUpdate.
    app = create_app(create_model(list, input={"type": "doubles"}, is_warm=False))
    response = await predict(app, FEEDBACK, path)
    assert (response.status_code, response.text) == (200, "Feedback received? 1")


def mismatch(key: str, expected: str, found: str) -> str:
    return f"Type mismatch! JSON key {key} expected type {expected}but found type {found}"


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"uid": "23"}, mismatch("uid", "Number", "String")),
        ({"uid": True}, mismatch("uid", "Number", "True")),
        ({"uid": 1.5}, "PredictionData of type Number is not of type long"),
        ({"uid": 2**63}, "PredictionData of type Number is not of type long"),
        ({"input": "a"}, mismatch("input", "Array", "String")),
        ({"label": None}, mismatch("label", "Number", "Null")),
    ],
    ids=str,
)
async def test_feedback_is_checked(changed: Any, cause: str) -> None:
    app = create_echo("doubles")
    response = await predict(app, FEEDBACK | changed, "/update")
    assert response.status_code == 400
    assert response.headers["content-type"].startswith("text/plain")
    assert response.text == f"Error parsing JSON: {cause}. Expected JSON schema: {UPDATE_SCHEMA}"


@pytest.mark.parametrize("missing", FEEDBACK)
async def test_feedback_needs_all_its_keys(missing: str) -> None:
    body = {key: value for key, value in FEEDBACK.items() if key != missing}
    response = await predict(create_echo("doubles"), body, "/update")
    assert response.status_code == 400
    assert f"JSON object does not have required key: {missing}." in response.text


async def test_feedback_that_is_too_large_keeps_its_status() -> None:
    app = create_echo("doubles", limits={"max_body_mb": 0.00001})
    assert (await predict(app, FEEDBACK, "/update")).status_code == 413


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in leaves(each)]
    if isinstance(value, list):
        return [leaf for each in value for leaf in leaves(each)]
    return [value]


async def test_metrics_tell_what_was_predicted() -> None:
    def parse_all(items: Sequence[str]) -> list[int]:
        return [int(item) for item in items]

    app = create_app(create_model(parse_all, input={"type": "string"}, version="7"))
    empty = (await call(app, "GET", "/metrics")).json()
    await predict(app, {"input": "1"})
    await predict(app, {"input_batch": ["2", "two", "3"]})
    await predict(app, {"input": 1})
    response = await call(app, "GET", "/metrics")
    assert response.headers["content-type"] == "application/json"
    report = response.json()
    # metrics.cpp: by category, in this order; every value is a string.
    assert list(report) == ["counters", "ratio_counters", "meters", "histograms"]
    assert all(isinstance(leaf, str) for leaf in leaves(report) + leaves(empty))
    values = {
        name: value for each in report.values() for one in each for name, value in one.items()
    }
    assert values["app:m:num_predictions"] == {"count": "4"}
    assert values["model:m:7:num_predictions"] == {"count": "4"}
    assert values["app:m:default_prediction_ratio"] == {"ratio": "0.25"}
    assert {"app:m:default_prediction_ratio": {"ratio": "nan"}} in empty["ratio_counters"]
    throughput = values["app:m:prediction_throughput"]
    assert list(throughput) == ["unit", "rate", "rate_1min", "rate_5min", "rate_15min"]
    assert throughput["unit"] == "events per second"
    assert all(float(throughput[key]) > 0 for key in list(throughput)[1:])
    latency = values["app:m:prediction_latency"]
    keys = ["unit", "size", "min", "max", "mean", "std_dev", "p50", "p95", "p99"]
    assert list(latency) == list(values["model:m:7:batch_size"]) == keys
    assert (latency["unit"], latency["size"]) == ("microseconds", "4")
    assert 0 < int(latency["min"]) <= float(latency["p50"]) < 10e6
