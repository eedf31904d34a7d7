"""Triton's statistics count the requests of every protocol, and of handles, alike."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from rayserve_app.app import App, create_app
from rayserve_app.errors import PredictError
from rayserve_app.inference.model import Model
from rayserve_app.settings.protocols import PROTOCOLS
from tests.protocols import call, create_model

BAD = "bad"


def lengths(items: Sequence[str]) -> list[Any]:
    return [ValueError("bad") if item == BAD else len(item) for item in items]


def create(**options: Any) -> tuple[Model, App]:
    model = create_model(lengths, input={"type": "string"}, **options)
    return model, create_app(model)


def text_tensor(*texts: str) -> dict[str, Any]:
    shape = [len(texts)]
    tensor = {"name": "string", "datatype": "BYTES", "shape": shape, "data": list(texts)}
    return {"inputs": [tensor]}


def instances(*texts: str) -> dict[str, Any]:
    return {"instances": [{"string": text} for text in texts]}


MULTIPART = (
    b'--B\r\nContent-Disposition: form-data; name="string"\r\n\r\nabc\r\n--B--\r\n',
    {"content-type": "multipart/form-data; boundary=B"},
)
JSON = {"content-type": "application/json"}

# A request of two items where the protocol has such, one that the model fails on, and one that is
# refused before the model is asked.
REQUESTS: dict[str, tuple[str, Any, Any, Any]] = {
    "Clipper": ("/predict", {"input_batch": ["a", "b"]}, {"input": BAD}, b"{"),
    "SageMaker": ("/invocations", ["a", "b"], BAD, b"{"),
    "SageMaker's runtime": ("/endpoints/m/invocations", ["a", "b"], BAD, b"{"),
    "a multi-model endpoint": ("/models/m/invoke", ["a", "b"], BAD, b"{"),
    "Multi Model Server": ("/predictions/m", ["a", "b"], BAD, b"{"),
    "Cluster Serving": (
        "/models/m/versions/1/predict",
        instances("a", "b"),
        instances(BAD),
        b"{",
    ),
    "TensorFlow Serving": (
        "/v1/models/m:predict",
        {"instances": ["a", "b"]},
        {"instances": [BAD]},
        b"{",
    ),
    "simple_tensorflow_serving": (
        "/",
        {"data": {"string": ["a", "b"]}},
        {"data": {"string": [BAD]}},
        b"{",
    ),
    "Open Inference": ("/v2/models/m/infer", text_tensor("a", "b"), text_tensor(BAD), b"{"),
}


async def statistics(app: App) -> Any:
    (found,) = (await call(app, "GET", "/v2/models/m/stats")).json()["model_stats"]
    return found


def counts(found: Any) -> tuple[int, int, int]:
    """Return items of successful requests, these, and those that failed."""
    stats = found["inference_stats"]
    return found["inference_count"], stats["success"]["count"], stats["fail"]["count"]


async def post(app: App, path: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await call(app, "POST", path, content=content, headers=JSON)


@pytest.mark.parametrize(("path", "good", "failing", "malformed"), REQUESTS.values(), ids=REQUESTS)
async def test_every_protocols_requests_are_counted(
    path: str, good: Any, failing: Any, malformed: bytes
) -> None:
    _, app = create(protocols=list(PROTOCOLS))
    assert (await post(app, path, good)).status_code == 200
    found = await statistics(app)
    assert counts(found) == (2, 1, 0)
    assert found["last_inference"] > 1_700_000_000_000
    stats = found["inference_stats"]
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert [stats[part]["count"] for part in parts] == [1] * 4
    assert stats["compute_infer"]["ns"] > 0
    assert stats["compute_output"]["ns"] > 0
    assert sum(stats[part]["ns"] for part in parts) <= stats["success"]["ns"]
    await post(app, path, failing)
    assert counts(await statistics(app)) == (2, 1, 1)
    assert (await post(app, path, malformed)).status_code >= 400
    found = await statistics(app)
    assert counts(found) == (2, 1, 2)
    assert found["inference_stats"]["fail"]["ns"] > 0


async def test_forms_and_pages_are_counted() -> None:
    _, app = create(protocols=list(PROTOCOLS))
    content, headers = MULTIPART
    for path in ("/predictions/m", "/invocations"):
        before = counts(await statistics(app))
        response = await call(app, "POST", path, content=content, headers=headers)
        assert response.status_code in (200, 415), response.text
        after = counts(await statistics(app))
        assert sum(after[1:]) == sum(before[1:]) + 1
    fields = {"json_data": json.dumps({"data": {"string": ["a"]}})}
    before = counts(await statistics(app))
    await call(app, "POST", "/run_json_inference", data=fields)
    assert sum(counts(await statistics(app))[1:]) == sum(before[1:]) + 1


async def test_handles_are_counted() -> None:
    """A Serve handle's call ends in `Model.predict` as well."""
    model, app = create()
    await model.predict(["a", "b", "c"])
    assert counts(await statistics(app)) == (3, 1, 0)
    (result,) = await model.predict([BAD])
    assert isinstance(result, PredictError)
    assert counts(await statistics(app)) == (3, 1, 1)


async def test_what_asks_nothing_of_the_model_is_not_counted() -> None:
    _, app = create(protocols=list(PROTOCOLS))
    for method, path in (
        ("GET", "/ping"),
        ("GET", "/v1/models/m"),
        ("GET", "/nowhere"),
        ("PUT", "/v2/models/m/infer"),
        ("POST", "/v2/models/x/infer"),
        ("POST", "/v2/models/m/versions/7/infer"),
        ("POST", "/v2/repository/index"),
        ("POST", "/update"),
        ("POST", "/models"),
    ):
        await call(app, method, path, content=b"{")
    assert counts(await statistics(app)) == (0, 0, 0)


async def test_a_model_that_is_not_ready_fails_its_requests() -> None:
    _, app = create(is_warm=False)
    for path in ("/v2/models/m/infer", "/invocations", "/v1/models/m:predict"):
        assert (await post(app, path, {})).status_code == 503
    assert counts(await statistics(app)) == (0, 0, 3)


async def test_answers_from_the_cache_are_counted_too() -> None:
    _, app = create(cache={"max_mb": 1})
    for _ in range(2):
        assert (await post(app, "/predict", {"input": "a"})).status_code == 200
    found = await statistics(app)
    assert counts(found) == (2, 2, 0)
    assert found["inference_stats"]["cache_hit"]["count"] == 1


async def test_an_image_in_base64_is_one_inference() -> None:
    model = create_model(lambda items: [1] * len(items), input={"type": "bytes"})
    app = create_app(model)
    text = b64encode(b"\x89PNG").decode()
    assert (await post(app, "/predict", {"input": text})).status_code == 200
    assert counts(await statistics(app)) == (1, 1, 0)
