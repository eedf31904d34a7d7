"""The gateway in Serve: what it forwards, and to what it forwards as applications come and go."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from openapi_spec_validator import validate

from rayserve_app.bench.load import Target
from rayserve_app.bench.steady_load import Asked, SteadyLoad
from rayserve_app.gateway.request_head import LATE_S
from rayserve_app.settings.model import DeadlineSettings
from tests.clients import tensorflow_serving
from tests.clients.openapi import check_operations
from tests.serve.conftest import Server
from tests.serve.test_bad_input import png
from tests.serve.test_failures import processes_named, seconds_until, steady_load

pytestmark = pytest.mark.serve

GREY = [128.0, 128.0, 128.0]
"""The answer of `colors` for `png()`."""

JSON = "application/json"

UNKNOWN = {
    "clipper": ("/no-such/predict", {"input": ""}, 404, JSON, "cause"),
    "sagemaker": ("/models/no-such/invoke", {}, 404, JSON, "error"),
    "sagemaker_runtime": ("/endpoints/no-such/invocations", {}, 400, JSON, "Message"),
    "tensorflow_serving": ("/v1/models/no-such:predict", {"instances": [1]}, 404, JSON, "error"),
    "open_inference": ("/v2/models/no-such/infer", {"inputs": []}, 404, JSON, "error"),
    "simple_tensorflow_serving": ("/", {"model_name": "no-such", "data": [1]}, 400, JSON, "error"),
    "cluster_serving": ("/models/no-such/versions/1/predict", {}, 404, "text/plain", None),
    "multi_model_server": ("/predictions/no-such", {}, 404, JSON, "message"),
}
"""By protocol: a path, a body, and the status, the media type and the key of what is wrong. With
400 in place of 404 where the protocol says so."""


@pytest.mark.parametrize("protocol", UNKNOWN)
def test_an_unknown_model_is_told_in_the_protocols_words(
    client: httpx.Client, protocol: str
) -> None:
    path, body, status, media_type, key = UNKNOWN[protocol]
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].partition(";")[0] == media_type
    sentence = answer.json()[key] if key else answer.text
    assert "no-such" in sentence
    for known in ("colors", "yolov3", "resnet-embedding"):
        assert known in sentence


def test_the_root_lists_the_models(client: httpx.Client) -> None:
    listed = client.get("/").json()
    colors = {"name": "colors", "path": "/colors", "ready": True}
    assert colors in listed["models"]
    assert "gateway" not in [model["name"] for model in listed["models"]]
    page = client.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert '<a href="/colors">colors</a>' in page.text
    assert client.get("/colors", headers={"accept": "text/html"}).text.startswith("<!DOCTYPE")


def test_the_document_names_the_models(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    validate(document)
    (model,) = document["paths"]["/v2/models/{model}"]["get"]["parameters"]
    assert {"colors", "digits", "yolov3"} <= set(model["schema"]["enum"])
    assert document["servers"] == [{"url": "/"}]
    assert client.get("/tfs/openapi.json").json()["servers"] == [{"url": "/tfs"}]


def test_answers_are_what_the_document_says(server: Server) -> None:
    statuses = check_operations(server.url, examples=1, model="colors", version="1")
    assert statuses[200] > 20


def test_encoded_paths_reach_models_and_do_not_loop(client: httpx.Client) -> None:
    """HAProxy does not decode a path, so that it is the gateway's."""
    image = {"input": base64.b64encode(png()).decode()}
    answer = client.post("/%63olors/predict", json=image)
    assert answer.request.url.raw_path == b"/%63olors/predict"
    assert answer.json()["output"] == GREY
    started_at = time.monotonic()
    lost = client.get("/%63olors/ping")
    assert (lost.status_code, "'/colors/ping'" in lost.json()["error"]) == (404, True)
    assert time.monotonic() - started_at < 5
    again = client.get("/ping", headers={"x-rayserve-forwarded": "1"})
    assert again.status_code == 200
    assert again.headers["x-rayserve-model"] == "colors"


def test_a_gateway_for_one_protocol_under_its_own_prefix(
    client: httpx.Client, server: Server
) -> None:
    url = f"{server.url}/tfs"
    tensorflow_serving.check_image(url, "colors", png(), GREY)
    tensorflow_serving.check_model(url, "colors", "1")
    tensorflow_serving.check_errors(url, "colors")
    assert client.get("/tfs/v2").status_code == 404
    assert client.post("/tfs/invocations", content=png()).status_code == 404
    assert client.get("/tfs").json()["protocols"] == ["tensorflow_serving"]


def test_large_bodies_pass(client: httpx.Client) -> None:
    """Five megabytes of heads come back, and two megabytes are refused as the model does."""
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    direct = client.post("/yolov3/invocations", content=png())
    assert len(direct.content) > 5_000_000
    forwarded = client.post("/models/yolov3/invoke", content=png())
    assert forwarded.content == direct.content
    assert forwarded.headers["content-type"] == "application/x-npy"
    refused = client.post("/models/colors/invoke", content=pixels.tobytes() * 3)
    assert (refused.status_code, "2000000 bytes" in refused.json()["error"]) == (413, True)


@contextmanager
def deployed(server: Server, *applications: dict[str, Any]) -> Iterator[None]:
    """Serve more applications for as long as the block lasts."""
    config = copy.deepcopy(server.config)
    config["applications"] += applications
    server.apply(config)
    try:
        for application in applications:
            seconds_until(lambda name=application["name"]: status(server, name) == "RUNNING", 60)
        yield
    finally:
        server.apply(server.config)


def status(server: Server, name: str) -> str | None:
    status: str | None = server.applications().get(name, {}).get("status")
    assert status != "DEPLOY_FAILED"
    return status


def test_an_application_is_served_from_its_deployment_to_its_deletion(
    client: httpx.Client, server: Server
) -> None:
    """Its model has another name than its prefix."""
    late = {
        "name": "late",
        "route_prefix": "/here",
        "import_path": "deployments.closure:build",
        "args": {
            "model": {
                "name": "words",
                "function": "tests.serve.closures:faulty",
                "input": {"type": "string"},
            }
        },
        "deployments": [{"name": "Model", "ray_actor_options": {"num_cpus": 0.01}}],
    }

    def ask() -> httpx.Response:
        return client.post("/v1/models/words:predict", json={"instances": ["a"]})

    assert ask().status_code == 404
    with deployed(server, late):
        seconds_until(lambda: ask().status_code == 200, 10)
        assert ask().json() == {"predictions": ["A"]}
        assert client.post("/words/predict", json={"input": "a"}).json()["output"] == "A"
        # Serve's proxy may have answered first; the gateway hears of the replica a second later.
        ready = {"name": "words", "path": "/here", "ready": True}
        seconds_until(lambda: ready in client.get("/").json()["models"], 10)
    seconds_until(lambda: status(server, "late") is None, 60)
    seconds_until(lambda: ask().status_code == 404, 10)
    assert "words" not in client.get("/").text


def replicas(server: Server, name: str) -> dict[int, str]:
    """Return the states of a model's replicas by their process, of those that have one."""
    found = server.applications()[name]["deployments"]["Model"]["replicas"]
    return {replica["pid"]: replica["state"] for replica in found if replica.get("pid")}


def test_small_requests_survive_the_death_of_a_replica(server: Server) -> None:
    """Of two replicas; a request that is with the dead one is sent to the other."""
    before = replicas(server, "frontend")
    assert list(before.values()) == ["RUNNING"] * 2
    victim = min(before)
    assert "ServeReplica:frontend:Model" in " ".join(psutil.Process(victim).cmdline())

    def is_replaced() -> bool:
        now = replicas(server, "frontend")
        return victim not in now and list(now.values()) == ["RUNNING"] * 2

    with ExitStack() as stack:
        loads = [
            stack.enter_context(steady_load(server, "/models/frontend/invoke", png()))
            for _ in range(4)
        ]
        time.sleep(1)
        os.kill(victim, signal.SIGKILL)
        seconds_until(is_replaced, 60)
        time.sleep(2)  # until the gateway asks the new one too
    assert [set(statuses) for statuses in loads] == [{200}] * 4
    assert min(map(len, loads)) > 20


def through_both_ways(server: Server) -> list[Asked]:
    """Requests of several protocols to one model with one replica."""
    image = png()
    text = json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}).encode()
    bodies = {
        "/colors/invocations": (image, "image/png"),
        "/models/colors/invoke": (image, "image/png"),
        "/endpoints/colors/invocations": (image, "image/png"),
        "/v1/models/colors:predict": (text, JSON),
        "/predictions/colors": (image, "image/png"),
    }
    deadline_s = DeadlineSettings().latency_ms / 1e3
    return [
        Asked("colors", deadline_s, Target.post(server.url + path, *body))
        for path, body in bodies.items()
    ]


def other_pid(server: Server, title: str, pid: int) -> bool:
    return any(each.pid != pid for each in processes_named(server, title))


@pytest.mark.parametrize(
    ("title", "most_lost"),
    [
        ("ray::ServeReplica:colors:", 3),
        ("ray::ServeReplica:gateway:", 3),
        ("ray::ServeController", 0),
        (None, 0),
    ],
    ids=["replica", "gateway", "controller", "update"],
)
async def test_only_what_is_in_flight_is_lost(
    server: Server, title: str | None, most_lost: int
) -> None:
    """Whatever is killed or replaced: everybody else is answered, or refused at the deadline, in
    the words of the protocol."""
    options = server.application("colors")["deployments"][0]["ray_actor_options"]
    async with SteadyLoad(through_both_ways(server), 20.0) as load:
        await asyncio.sleep(1)
        if title is not None:
            (victim,) = processes_named(server, title)
            victim.kill()
            came = partial(other_pid, server, title, victim.pid)
        else:
            (before,) = replicas(server, "colors")
            options["num_cpus"] = round(options["num_cpus"] + 0.01, 2)
            await asyncio.to_thread(server.apply, server.config)
            came = partial(is_replaced, server, "colors", before)
        await asyncio.to_thread(seconds_until, came, 60)
        asked = len(load.outcomes)
        await asyncio.sleep(2)
        async with asyncio.timeout(60):
            while not all(each.status == 200 for each in load.outcomes[-10:]):
                await asyncio.sleep(0.2)
    assert len(load.outcomes) > asked
    assert load.outcomes.lost <= most_lost, load.outcomes.statuses
    assert load.outcomes.latest_s < 20 * LATE_S


def is_replaced(server: Server, name: str, before: int) -> bool:
    now = replicas(server, name)
    return before not in now and "RUNNING" in now.values()


def test_who_waits_for_a_replica_is_told_at_the_deadline(
    client: httpx.Client, server: Server
) -> None:
    """Of 1.5 s, which is shorter than a replica takes to start; straight, where Serve's own proxy
    lets requests wait, and through the gateway."""
    (victim,) = processes_named(server, "ray::ServeReplica:faulty:")
    victim.kill()
    for path in ("/faulty/invocations", "/models/faulty/invoke"):
        status = 500  # HAProxy's own, until it knows that the replica is gone
        while status == 500:
            started_at = time.monotonic()
            answer = client.post(path, json="fine")
            assert time.monotonic() - started_at < 1.5 + 20 * LATE_S
            status = answer.status_code
        if answer.status_code != 200:
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) > 0
            assert "has no replica" in answer.json()["error"]
    seconds_until(lambda: client.post("/faulty/invocations", json="fine").status_code == 200, 60)
