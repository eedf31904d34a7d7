"""What a gateway makes of what Serve's controller tells: the states were recorded from Serve 2.60,
while replicas were killed and replaced, and the controller itself."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import job_submission
from ray.serve._private.common import RequestProtocol
from ray.serve.schema import Target, TargetGroup

from deployments.internals import served_models as served_models_module
from deployments.internals.served_models import Controller, ModelsByPath, Told, served_models
from rayserve_app.gateway.replicas import Address, ServedModel

HERE = {"192.0.2.2": "127.0.0.1"}

REPLICA = Address("127.0.0.1", 30001)

PROXY = Address("127.0.0.1", 8510)

CONFIG = {"args": {"model": {"name": "m", "deadline": {"latency_ms": 3000}, "path": "s3://b/x.gz"}}}

KNOWN = {
    "one": ServedModel(
        "m",
        "/one",
        (REPLICA,),
        targets=frozenset({"m", "m.tar.gz", "s3://b/x.gz", "x.gz"}),
        deadline_s=3.0,
        patience_s=3.0,
    )
}


def application(*states: str, **changes: Any) -> dict[str, Any]:
    target = changes.pop("target", 1)
    deployment = {"replicas": [{"state": state} for state in states], "target_num_replicas": target}
    told = {
        "status": "RUNNING",
        "route_prefix": "/one",
        "deployed_app_config": CONFIG,
        "deployments": {"Model": deployment},
    }
    return told | changes


GATEWAY = application(
    "RUNNING",
    route_prefix="/",
    deployments={"Gateway": {}},
    deployed_app_config={"args": {"gateway": {"default_model": {"sagemaker": "m"}}}},
)


def group(name: str, *ports: int) -> TargetGroup:
    targets = [Target(ip="192.0.2.2", port=port, instance_id="", name="") for port in ports]
    return TargetGroup(
        protocol=RequestProtocol.HTTP, route_prefix=f"/{name}", targets=targets, app_name=name
    )


def learn(
    told: Mapping[str, Any], *ports: int, known: Mapping[str, ServedModel] = KNOWN
) -> dict[str, ServedModel]:
    groups, proxies = [group("one", *ports)], [group("", PROXY.port)]
    return served_models(Told(told, groups, proxies, HERE), known)


def test_a_model_is_what_its_yaml_says_where_its_replicas_listen() -> None:
    assert learn({"one": application("RUNNING")}, REPLICA.port, known={}) == KNOWN


@pytest.mark.parametrize(
    ("told", "replicas", "is_ready"),
    [
        # A replica was killed; its successor starts.
        (application("STARTING", status="UNHEALTHY"), (), False),
        # It is being replaced.
        (application("STOPPING", "STARTING", status="DEPLOYING"), (), False),
        # The controller was killed, and its successor does not know where replicas listen.
        (application("RECOVERING", status="DEPLOYING"), (REPLICA,), True),
        # It is scaled to zero: Serve's proxy makes that it is not.
        (application(target=0), (PROXY,), False),
    ],
)
def test_a_model_stays_known_while_its_replica_changes(
    told: dict[str, Any], replicas: tuple[Address, ...], is_ready: bool
) -> None:
    expected = KNOWN["one"]._replace(replicas=replicas, is_ready=is_ready)
    assert learn({"one": told}) == {"one": expected}


@pytest.mark.parametrize("change", [{"route_prefix": None}, {"deployments": {}}])
def test_what_is_not_told_does_not_change(change: dict[str, Any]) -> None:
    assert learn({"one": application("RUNNING", **change)}) == KNOWN
    without_config = application("RUNNING", deployed_app_config=None)
    assert learn({"one": without_config}, REPLICA.port) == KNOWN


@pytest.mark.parametrize(
    "args",
    [
        {"model": "gpt2"},
        ["gpt2"],
        {"model": {"deadline": 5}},
        {"model": {"deadline": {"latency_ms": "soon"}}},
        {"model": {"deadline": {"latency_ms": 0}}},
        {"model": {"path": 5}},
    ],
)
def test_arguments_that_are_no_models_keep_nothing_else_from_being_known(args: Any) -> None:
    wrong = application("RUNNING", deployed_app_config={"args": args})
    sound = application("RUNNING")
    assert learn({"other": wrong, "one": sound}, REPLICA.port, known={}) == KNOWN
    # Such a YAML has been deployed over a model, whose replicas serve on.
    assert learn({"one": wrong}, REPLICA.port) == KNOWN


def test_a_model_that_is_deleted_is_not_known_any_more() -> None:
    assert learn({"one": application(status="DELETING", deployments={})}) == {}
    assert learn({"gateway": GATEWAY}) == {}


def test_a_model_whose_application_has_become_anothers_is_not_known_any_more() -> None:
    assert learn({"one": application("RUNNING", deployments={"Llm": {}})}) == {}


def test_a_controller_that_knows_of_nothing_has_lost_its_memory() -> None:
    assert learn({}) == KNOWN


def test_nobody_waits_for_a_model_that_has_failed() -> None:
    told = learn({"one": application("STOPPING", status="DEPLOY_FAILED")})
    assert (told["one"].replicas, told["one"].patience_s) == ((), 0.0)


def test_without_listening_replicas_serves_proxy_is_asked() -> None:
    told = {"one": application("RUNNING")}
    proxies = [group("", PROXY.port)]
    (model,) = served_models(Told(told, proxies, proxies, HERE), {}).values()
    assert (model.replicas, model.is_ready) == ((PROXY,), True)


def test_what_is_no_model_is_none() -> None:
    assert learn({"gateway": GATEWAY}, known={}) == {}


@pytest.mark.parametrize(
    ("path", "model", "prefix"),
    [
        # Of somebody else's application, whose requests may take as long as they do.
        ("/other/predict", None, ""),
        ("/wrong/predict", None, ""),
        ("/one/predict", "m", "/one"),
        ("/one", "m", "/one"),
        ("/models/m/invoke", "m", ""),
        ("/models/slow/invoke", "slow", ""),
        ("/invocations", "m", ""),
        # It may be that of any model, of which this one takes longest.
        ("/onerous", "slow", ""),
        ("/v2/models/stats", "slow", ""),
        ("/slow/v1/models/slow:predict", "slow", "/slow"),
    ],
)
async def test_a_path_means_a_model_by_its_prefix_or_at_a_gateway(
    monkeypatch: pytest.MonkeyPatch, path: str, model: str | None, prefix: str
) -> None:
    slow = {"args": {"model": {"deadline": {"latency_ms": 9000}, "protocols": ["sagemaker"]}}}
    told = {
        "one": application("STARTING"),
        "slow": application("STARTING", route_prefix="/slow", deployed_app_config=slow),
        "gateway": GATEWAY,
        "other": application("RUNNING", route_prefix="/other", deployments={"Llm": {}}),
        "wrong": GATEWAY | {"route_prefix": "/wrong", "deployed_app_config": {"args": {"x": 1}}},
    }

    async def ask(controller: Controller) -> Told:
        return Told(told, [], [], HERE)

    monkeypatch.setattr(Controller, "ask", ask)
    found = await ModelsByPath().find(path)
    if model is None:
        assert found is None
        return
    assert found is not None
    assert (found.name, found.prefix) == (model, prefix)
    assert found.deadline_s == {"m": 3.0, "slow": 9.0}[model]


async def test_while_the_controller_is_away_what_is_known_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: str) -> Any:
        raise ValueError("Failed to look up actor")

    monkeypatch.setattr(ray, "get_actor", away)
    models = ModelsByPath()
    assert await models.find("/one/predict") is None
    models._models = KNOWN
    assert await models.find("/one/predict") == KNOWN["one"]


class Reference:
    """What a call of an actor returns at once."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __await__(self) -> Generator[None, None, Any]:
        yield
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class FakeController:
    """Answers as Serve's controller does, but for what a test changes."""

    def __init__(self, **changes: Any) -> None:
        self.calls = {
            "get_serve_instance_details": {"applications": DETAILS, "http_options": {}},
            "get_target_groups": [group("one", REPLICA.port)],
        } | changes

    def __getattr__(self, name: str) -> Any:
        if self.calls.get(name) is None:
            raise AttributeError(name)
        return SimpleNamespace(remote=lambda **_: Reference(self.calls[name]))


DETAILS = {"one": application("RUNNING")}

REST = {
    "applications": DETAILS,
    "http_options": {},
    "target_groups": [group("", PROXY.port).model_dump(mode="json")],
}
"""What Ray's dashboard answers."""


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.2")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="gcs"))
    client = SimpleNamespace(get_address=lambda: "http://dashboard")
    monkeypatch.setattr(job_submission, "JobSubmissionClient", lambda address: client)
    answers = {"http://dashboard/api/serve/applications/": REST}
    monkeypatch.setattr(served_models_module, "get_json", lambda url, headers: answers[url])


@pytest.mark.usefixtures("dashboard")
@pytest.mark.parametrize(
    "changes",
    [
        {"get_target_groups": None},
        {"get_target_groups": TypeError("unexpected keyword argument")},
        {"get_target_groups": [{"targets": []}]},
        {"get_serve_instance_details": {"apps": {}}},
        {"get_serve_instance_details": {"applications": {"one": {}}, "http_options": {}}},
    ],
)
async def test_a_controller_that_is_not_as_known_is_left_for_the_dashboard(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(ray, "get_actor", lambda *_: FakeController(**changes))
    controller = Controller()
    for _ in range(2):
        models = served_models(await controller.ask(), {})
        assert models == {"one": KNOWN["one"]._replace(replicas=(PROXY,))}
    await controller.listen(lambda: None)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_controller_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.2")
    away = FakeController(get_target_groups=ray.exceptions.RayActorError())
    monkeypatch.setattr(ray, "get_actor", lambda *_: away)
    controller = Controller()
    with pytest.raises(ray.exceptions.RayActorError):
        await controller.ask()
    monkeypatch.setattr(ray, "get_actor", lambda *_: FakeController())
    assert served_models(await controller.ask(), {}) == KNOWN
