"""What Prometheus scrapes from a model and from a gateway, read by its own client's parsers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from rayserve_app.app import App, create_app
from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.metrics import exposition
from rayserve_app.metrics.exposition import OPEN, TEXT
from rayserve_app.metrics.recorder import Recorder
from tests.protocols import call, create_model
from tests.servers import serving

Parser = Callable[[str], Iterable[Metric]]

PARSERS: dict[str, Parser] = {
    TEXT: text_string_to_metric_families,
    OPEN: openmetrics.text_string_to_metric_families,
}

# What Prometheus 2 and 3, vmagent and Telegraf send.
SCRAPERS = [
    (
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;"
        "q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        OPEN,
    ),
    (
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
        "application/openmetrics-text;version=0.0.1;q=0.4,"
        "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
        "text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
        OPEN,
    ),
    ("text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT),
    ("text/plain", TEXT),
    ("Application/OpenMetrics-Text; version=1.0.0; q=0.2, text/plain; q=0.3", TEXT),
]

OTHERS = [
    None,
    "*/*",
    "application/json",
    "application/json, text/plain, */*;q=0.5, text/plain;q=0.4",
    "text/plain;q=0",
    "text/html,application/xhtml+xml,*/*;q=0.8",
    "text/plain;q=0.5, application/json",
]


def create(**settings: Any) -> App:
    return create_app(create_model(list, input={"type": "string"}, **settings))


def families(body: str, media_type: str) -> dict[str, Metric]:
    found = list(PARSERS[media_type](body))
    assert len({metric.name for metric in found}) == len(found)
    return {metric.name: metric for metric in found}


def totals(metric: Metric, suffix: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Return the values of a family's samples of one suffix by these labels."""
    samples = [sample for sample in metric.samples if sample.name == metric.name + suffix]
    found = {tuple(each.labels[label] for label in labels): each.value for each in samples}
    assert len(found) == len(samples)
    return found


async def ask_some(app: App) -> None:
    for body in (b'{"input": "a"}', b'{"input": "b"}', b"{"):
        await call(app, "POST", "/predict", content=body)
    await call(app, "GET", "/nowhere")


@pytest.mark.parametrize(("accept", "media_type"), SCRAPERS)
@pytest.mark.parametrize(
    "protocols", [["clipper"], ["cluster_serving", "clipper"], ["sagemaker", "clipper"]]
)
async def test_a_scraper_gets_its_format(
    accept: str, media_type: str, protocols: list[str]
) -> None:
    app = create(protocols=protocols)
    await ask_some(app)
    response = await call(app, "GET", "/metrics", headers={"accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    assert families(response.text, media_type)["rayserve_batch_items"].type == "histogram"


@pytest.mark.parametrize("media_type", PARSERS)
async def test_the_values_are_the_recorders(media_type: str) -> None:
    app = create(protocols=["clipper"])
    await ask_some(app)
    response = await call(app, "GET", "/metrics", headers={"accept": media_type})
    found = families(response.text, media_type)
    labels = ("model", "protocol", "status")
    assert totals(found["rayserve_responses"], "_total", *labels) == {
        ("m", "clipper", "200"): 2,
        ("m", "clipper", "400"): 1,
        ("m", "", "404"): 1,
    }
    stages = found["rayserve_stage_seconds"]
    assert stages.type == "histogram"
    assert totals(stages, "_count", "stage")["predict",] == 2
    buckets = totals(stages, "_bucket", "stage", "le")
    assert buckets["predict", "+Inf"] == 2
    assert buckets["predict", "10.0"] == 2
    assert 0 < totals(stages, "_sum", "stage")["predict",] < 10
    assert totals(found["rayserve_batch_items"], "_sum", "model") == {("m",): 2}
    assert found["rayserve_dropped_requests"].type == "counter"
    assert all(metric.documentation for metric in found.values())


@pytest.mark.parametrize("accept", OTHERS)
@pytest.mark.parametrize("protocol", ["clipper", "cluster_serving"])
async def test_whoever_asks_for_no_such_format_gets_the_protocols_report(
    accept: str | None, protocol: str
) -> None:
    headers = {} if accept is None else {"accept": accept}
    response = await call(create(protocols=[protocol]), "GET", "/metrics", headers=headers)
    assert response.status_code == 200
    assert isinstance(response.json(), dict if protocol == "clipper" else list)


@pytest.mark.parametrize("accept", [None, "*/*", "text/plain", "application/json"])
async def test_a_model_whose_protocols_have_no_metrics_has_these(accept: str | None) -> None:
    headers = {} if accept is None else {"accept": accept}
    response = await call(create(protocols=["sagemaker"]), "GET", "/metrics", headers=headers)
    assert response.headers["content-type"] == TEXT
    assert "rayserve_dropped_requests" in families(response.text, TEXT)


@pytest.mark.parametrize("media_type", PARSERS)
@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", "a\\nb", 'a\\"b', "ü", "", "a,b}", "a\rb"])
def test_labels_of_any_text_are_read_as_they_are(media_type: str, text: str) -> None:
    recorder = Recorder("r-1")
    recorder.defaults[text] += 3
    body = exposition.write(recorder, {"model": "m", "replica": recorder.replica}, media_type)
    (metric,) = [
        each
        for each in PARSERS[media_type](body.decode())
        if each.name == "rayserve_default_outputs"
    ]
    assert totals(metric, "_total", "model", "replica", "reason") == {("m", "r-1", text): 3}


def test_what_is_no_text_is_replaced() -> None:
    recorder = Recorder()
    recorder.defaults["\ud800"] += 1
    assert 'reason="?"' in exposition.write(recorder, {}, TEXT).decode()


@pytest.fixture(params=[["clipper", "cluster_serving"], ["sagemaker"]], ids=["claimed", "free"])
def gateway(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A gateway, with two protocols that have the path or with none, before two models."""
    apps = {}
    for name in ("a", "b"):
        model = create_model(list, input={"type": "string"})
        model.name = name
        apps[name] = create_app(model)

    async def replica(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            prefix = scope["path"][:2]
            await apps[prefix[1:]]({**scope, "root_path": prefix}, receive, send)

    directory = Directory()
    with serving(replica) as port:
        directory.update(
            ServedModel(name, f"/{name}", (Address("127.0.0.1", port),)) for name in apps
        )
        settings = GatewaySettings(protocols=tuple(request.param))
        with (
            serving(Gateway(settings, directory)) as own,
            httpx.Client(base_url=f"http://127.0.0.1:{own}", timeout=20) as client,
        ):
            yield client


@pytest.mark.parametrize(("accept", "media_type"), SCRAPERS)
def test_a_gateway_answers_for_all_its_models(
    gateway: httpx.Client, accept: str, media_type: str
) -> None:
    for _ in range(2):
        gateway.get("/nowhere")
    response = gateway.get("/metrics", headers={"accept": accept})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == media_type
    found = families(response.text, media_type)
    buckets = totals(found["rayserve_batch_items"], "_bucket", "model", "le")
    assert {model for model, _ in buckets} == {"a", "b"}
    assert totals(found["rayserve_dropped_requests"], "_total", "model") == {("a",): 0, ("b",): 0}
