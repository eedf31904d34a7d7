"""What the server and its models tell of themselves: health, metadata, repository, statistics."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rayserve_app.types import TensorSpec
from tests.protocols import call
from tests.protocols.open_inference.messages import (
    NAMED,
    create,
    create_echo,
    get,
    infer,
    one,
    post,
    tensor,
)


async def test_the_server_describes_itself() -> None:
    response = await get(create_echo(), "/v2")
    assert response.status_code == 200
    assert set(response.json()) == {"name", "version", "extensions"}
    assert "binary_tensor_data" in response.json()["extensions"]


async def test_health_says_both_whatever_it_is_asked() -> None:
    """KServe's client reads `live` or `ready`, Triton's the status alone."""
    warm, cold = create_echo(), create_echo(is_warm=False)
    for path in ("live", "ready"):
        response = await get(warm, f"/v2/health/{path}")
        assert (response.status_code, response.json()) == (200, {"live": True, "ready": True})
    response = await get(cold, "/v2/health/live")
    assert (response.status_code, response.json()) == (200, {"live": True, "ready": False})
    response = await get(cold, "/v2/health/ready")
    assert (response.status_code, response.json()) == (400, {"live": True, "ready": False})
    response = await get(cold, "/v2/models/m/ready")
    assert (response.status_code, response.json()) == (400, {"name": "m", "ready": False})
    response = await get(warm, "/v2/models/m/versions/1/ready")
    assert (response.status_code, response.json()) == (200, {"name": "m", "ready": True})
    assert (await infer(cold, one())).status_code == 503


@pytest.mark.parametrize(
    ("declared", "inputs"),
    [
        ({"type": "image"}, [("image", "BYTES", [-1, 1])]),
        ({"type": "bytes", "codec": "packed_jpeg"}, [("bytes", "BYTES", [-1, 1])]),
        ({"type": "string", "codec": "base64"}, [("string", "BYTES", [-1, 1])]),
        ({"type": "request"}, [("request", "BYTES", [-1, 1])]),
        ({"type": "integers"}, [("integers", "INT32", [-1, -1])]),
        ({"type": "doubles"}, [("doubles", "FP64", [-1, -1])]),
        ({"type": "tensor"}, [("tensor", "FP32", [-1])]),
        (
            {"type": "tensor", "shape": [2, -1], "dtype": "uint8"},
            [("tensor", "UINT8", [-1, 2, -1])],
        ),
    ],
)
async def test_metadata_of_models_that_say_nothing_themselves(
    declared: dict[str, Any], inputs: list[tuple[str, str, list[int]]]
) -> None:
    app = create(lambda items: [0] * len(items), input=declared)
    document = (await get(app, "/v2/models/m")).json()
    assert document == {
        "name": "m",
        "versions": ["1"],
        "platform": "test",
        "inputs": [{"name": n, "datatype": d, "shape": s} for n, d, s in inputs],
        "outputs": [{"name": "output", "datatype": "BYTES", "shape": [-1]}],
    }


async def test_metadata_and_configuration_of_tensors() -> None:
    outputs = [TensorSpec("y", "bool", (-1, 7)), TensorSpec("z", "int64", ())]
    app = create(
        lambda items: [],
        inputs=NAMED,
        outputs=outputs,
        input={"type": "tensors"},
        batching={"max_batch_size": 4, "batch_wait_timeout_s": 0.002},
        warm_up=False,
    )
    document = (await get(app, "/v2/models/m/versions/1")).json()
    assert document["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [-1, 2, -1]},
        {"name": "n", "datatype": "BYTES", "shape": [-1]},
    ]
    assert document["outputs"] == [
        {"name": "y", "datatype": "BOOL", "shape": [-1, 7]},
        {"name": "z", "datatype": "INT64", "shape": [-1]},
    ]
    assert (await get(app, "/v2/models/m/config")).json() == {
        "name": "m",
        "platform": "test",
        "backend": "test",
        "version_policy": {"all": {}},
        "max_batch_size": 4,
        "input": [
            {"name": "x", "data_type": "TYPE_FP32", "dims": [2, -1]},
            {"name": "n", "data_type": "TYPE_STRING", "dims": [1]},
        ],
        "output": [
            {"name": "y", "data_type": "TYPE_BOOL", "dims": [7]},
            {"name": "z", "data_type": "TYPE_INT64", "dims": [-1]},
        ],
        "dynamic_batching": {"max_queue_delay_microseconds": 2000},
    }


@pytest.mark.parametrize("path", ["", "/ready", "/config", "/stats", "/infer"])
async def test_an_unknown_model_or_version_is_named(path: str) -> None:
    app = create_echo()
    method = "POST" if path == "/infer" else "GET"
    response = await call(app, method, f"/v2/models/x{path}", content=json.dumps(one()).encode())
    assert response.status_code == 404
    assert response.json() == {"error": "Request for unknown model: 'x' is not found. Models: m"}
    response = await call(app, method, f"/v2/models/m/versions/3{path}")
    if path == "/ready":
        assert (response.status_code, response.json()["ready"]) == (400, False)
    else:
        assert response.status_code == 404
        sentence = "Request for unknown model: 'm' version 3 is not found: expected '1'"
        assert response.json()["error"].startswith(sentence)


async def test_the_repository_holds_the_model() -> None:
    app = create_echo()
    entry = {"name": "m", "version": "1", "state": "READY", "reason": ""}
    for document in (None, {}, {"ready": True}, {"ready": False}):
        response = await post(app, "/v2/repository/index", document)
        assert (response.status_code, response.json()) == (200, [entry])
    cold = create_echo(is_warm=False)
    (found,) = (await post(cold, "/v2/repository/index")).json()
    assert (found["state"], found["reason"]) == ("LOADING", "Model 'm' is warming up")
    assert (await post(cold, "/v2/repository/index", {"ready": True})).json() == []
    response = await post(app, "/v2/repository/index", {"ready": 1})
    assert response.status_code == 400
    assert (await post(app, "/v2/repository/index", [])).status_code == 400


async def test_a_model_of_an_application_is_not_unloaded() -> None:
    app = create_echo()
    response = await post(app, "/v2/repository/models/m/unload")
    assert response.status_code == 400
    assert "explicit model load / unload is not allowed" in response.json()["error"]
    assert "model_control" in response.json()["error"]
    documents: list[Any] = [None, {}, {"parameters": {}}]
    for document in documents:
        response = await post(app, "/v2/repository/models/m/load", document)
        assert (response.status_code, response.content) == (200, b"")
    assert (await infer(app, one())).status_code == 200
    response = await post(app, "/v2/repository/models/m/load", {"parameters": {"config": "{}"}})
    assert response.status_code == 400
    assert "got config" in response.json()["error"]
    for action in ("load", "unload"):
        assert (await post(app, f"/v2/repository/models/x/{action}")).status_code == 404


async def test_with_explicit_control_a_model_is_unloaded_and_loaded_again() -> None:
    app = create_echo(protocol_settings={"open_inference": {"model_control": "explicit"}})
    body = {"parameters": {"unload_dependents": False}}
    assert (await post(app, "/v2/repository/models/m/unload", body)).status_code == 200
    gone = {"error": "Request for unknown model: 'm' has no available versions"}
    response = await infer(app, one())
    assert (response.status_code, response.json()) == (404, gone)
    for path in ("", "/config", "/stats"):
        response = await get(app, f"/v2/models/m{path}")
        assert (response.status_code, response.json()) == (404, gone)
    response = await infer(app, one(), path="/v2/models/m/versions/1/infer")
    assert response.status_code == 503
    assert response.json()["error"] == (
        "Request for unknown model: 'm' version 1 is not at ready state"
    )
    assert (await get(app, "/v2/models/m/ready")).status_code == 400
    assert (await get(app, "/v2/health/ready")).status_code == 200
    assert (await get(app, "/v2/models/stats")).json() == {"model_stats": []}
    assert (await post(app, "/v2/repository/index")).json() == [
        {"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
    ]
    assert (await post(app, "/v2/repository/models/m/load")).status_code == 200
    assert (await get(app, "/v2/models/m/ready")).status_code == 200
    assert (await infer(app, one())).status_code == 200


async def test_statistics_count_requests_and_their_time() -> None:
    app = create_echo(batching={"max_batch_size": 2})
    for count in (1, 2):
        await infer(app, {"inputs": [tensor("INPUT0", "FP32", [count, 4], [0] * 4 * count)]})
    await infer(app, one(data=[]))
    (found,) = (await get(app, "/v2/models/m/stats")).json()["model_stats"]
    assert (found["name"], found["version"], found["inference_count"]) == ("m", "1", 3)
    assert found["last_inference"] > 1_700_000_000_000
    stats = found["inference_stats"]
    assert {name: each["count"] for name, each in stats.items()} == {
        "success": 2,
        "fail": 1,
        "queue": 2,
        "compute_input": 2,
        "compute_infer": 2,
        "compute_output": 2,
        "cache_hit": 0,
        "cache_miss": 0,
    }
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert 0 < stats["compute_infer"]["ns"] < stats["success"]["ns"]
    assert sum(stats[part]["ns"] for part in parts) <= stats["success"]["ns"]
    for path in ("/v2/models/stats", "/v2/models/m/versions/1/stats"):
        assert (await get(app, path)).json() == {"model_stats": [found]}


async def test_statistics_tell_executions_by_their_size() -> None:
    app = create_echo(batching={"max_batch_size": 2})
    for count in (1, 4):
        await infer(app, {"inputs": [tensor("INPUT0", "FP32", [count, 4], [0] * 4 * count)]})
    (found,) = (await get(app, "/v2/models/m/stats")).json()["model_stats"]
    sizes = [(each["batch_size"], each["compute_infer"]["count"]) for each in found["batch_stats"]]
    assert sizes == [(1, 1), (2, 2)]
    assert found["execution_count"] == 3
    assert all(each["compute_infer"]["ns"] > 0 for each in found["batch_stats"])


@pytest.mark.parametrize(
    ("method", "path", "sentence"),
    [
        ("GET", "/v2/trace/setting", "tracing"),
        ("POST", "/v2/models/m/trace/setting", "tracing"),
        ("GET", "/v2/logging", "dynamic logging"),
        ("GET", "/v2/systemsharedmemory/status", "shared memory"),
        ("POST", "/v2/cudasharedmemory/region/a/register", "shared memory"),
        ("POST", "/v2/systemsharedmemory/unregister", "shared memory"),
    ],
)
async def test_what_is_left_out_says_so(method: str, path: str, sentence: str) -> None:
    response = await call(create_echo(), method, path)
    assert response.status_code == 400
    assert response.json() == {"error": f"the server does not support {sentence}"}


async def test_a_wrong_verb_is_405() -> None:
    assert (await get(create_echo(), "/v2/models/m/infer")).status_code == 405
