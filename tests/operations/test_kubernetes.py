"""k8s/: the RayService is what the command makes of configs/app.yaml, and Kubernetes takes it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from jsonschema import Draft202012Validator

from rayserve_app.cli import main
from rayserve_app.operations.kubernetes import (
    DEFAULT_IMAGE,
    IMAGE_DIRECTORY,
    IMAGE_USER,
    RAY_VERSION,
    render,
)
from rayserve_app.operations.serve_yaml import read_document
from rayserve_app.operations.server.settings import ONE_MACHINE, serve_variables

ROOT = Path(__file__).parents[2]
ENVIRONMENT = serve_variables(None)
SCHEMA = ROOT.parent / "shared" / "kuberay" / "ray.io_rayservices.yaml"
DOCKERFILE = (ROOT / "k8s" / "Dockerfile").read_text()


def service(config: str = "app.yaml") -> dict[str, Any]:
    return render(read_document(ROOT / "configs" / config), ENVIRONMENT, DEFAULT_IMAGE)


def serve_config(config: str = "app.yaml") -> dict[str, Any]:
    embedded: dict[str, Any] = yaml.safe_load(service(config)["spec"]["serveConfigV2"])
    return embedded


def groups(config: str) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = service(config)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return workers


def containers(config: str = "app.yaml") -> list[dict[str, Any]]:
    """The head's container, then one of each worker group."""
    head = service(config)["spec"]["rayClusterConfig"]["headGroupSpec"]
    return [group["template"]["spec"]["containers"][0] for group in (head, *groups(config))]


def test_committed_manifest_is_what_the_command_makes_now(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["manifest", "configs/app.yaml"]) == 0
    assert capsys.readouterr().out == Path("k8s/rayservice.yaml").read_text()


def test_manifest_says_how_it_was_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["manifest", "configs/gpu.yaml", "--image", "host/image:7"]) == 0
    made = capsys.readouterr().out
    command = "rayserve-app manifest configs/gpu.yaml --image host/image:7 > k8s/rayservice.yaml"
    assert made.startswith(f"# Made by: {command}\n")
    assert set(re.findall(r"\bimage: (\S+)", made)) == {"host/image:7"}


def test_variables_of_the_users_are_in_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "app.yaml"
    config.write_text((ROOT / "configs" / "app.yaml").read_text())
    for name, options in (("serve.env", []), ("mine.env", ["--environment", "mine.env"])):
        file = tmp_path / name
        file.write_text(f"RAY_SERVE_ENABLE_HA_PROXY=0\nFROM={name}\n")
        options = [str(file) if option == name else option for option in options]
        assert main(["manifest", str(config), *options]) == 0
        made = capsys.readouterr().out
        assert made.startswith(
            f"# Made by: rayserve-app manifest {' '.join([str(config), *options])} >"
        )
        cluster = next(yaml.safe_load_all(made))["spec"]["rayClusterConfig"]
        (worker,) = cluster["workerGroupSpecs"]
        variables = worker["template"]["spec"]["containers"][0]["env"]
        overridden = {"RAY_SERVE_ENABLE_HA_PROXY": "0", "FROM": name}
        assert {each["name"]: each["value"] for each in variables} == ENVIRONMENT | overridden


@pytest.mark.parametrize("config", ["app.yaml", "gpu.yaml"])
def test_embedded_config_differs_in_host_and_model_paths_alone(config: str) -> None:
    expected = read_document(ROOT / "configs" / config)
    expected["http_options"]["host"] = "0.0.0.0"
    for application in expected["applications"]:
        model = application["args"].get("model", {})
        if "path" in model:
            model["path"] = f"/app/{model['path']}"
    assert serve_config(config) == expected


@pytest.mark.parametrize("config", ["app.yaml", "gpu.yaml"])
def test_every_pod_has_serves_environment(config: str) -> None:
    cluster = service(config)["spec"]["rayClusterConfig"]
    for container in [*containers(config), cluster["autoscalerOptions"]]:
        assert {each["name"]: each["value"] for each in container["env"]} == ENVIRONMENT


def test_what_is_right_on_one_machine_only_is_left_out() -> None:
    config = read_document(ROOT / "configs" / "app.yaml")
    assert render(config, {**ENVIRONMENT, **ONE_MACHINE}, DEFAULT_IMAGE) == service()


def test_worker_that_is_deleted_outlives_its_requests() -> None:
    (group,) = groups("app.yaml")
    pod = group["template"]["spec"]
    command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    longest_request_s = int(ENVIRONMENT["RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"])
    assert longest_request_s < int(command[1]) <= pod["terminationGracePeriodSeconds"] - 30


def test_ports_are_named_for_kuberay() -> None:
    head, worker = (
        {port["name"]: port["containerPort"] for port in container["ports"]}
        for container in containers()
    )
    assert worker == {"metrics": 8080, "serve": 8000}
    assert head == worker | {"gcs-server": 6379, "client": 10001, "dashboard": 8265}


def test_workers_hold_the_replicas_of_the_example_models() -> None:
    (group,) = groups("app.yaml")
    assert (group["minReplicas"], group["maxReplicas"]) == (1, 1)
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "2", "memory": "14Gi"}


def test_gpu_workers_follow_the_replicas_that_autoscale() -> None:
    """One whole GPU and a quarter at least; four whole ones and two for eight quarters at most,
    and one for an update."""
    (group,) = groups("gpu.yaml")
    assert (group["minReplicas"], group["maxReplicas"]) == (2, 7)
    pod = group["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"


def sized(*deployments: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The size of the one worker group of these deployments, and whether the head takes none of
    their requests."""
    config = {"applications": [{"name": "a", "deployments": list(deployments)}]}
    spec = render(config, {}, DEFAULT_IMAGE)["spec"]
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    size = {"workers": (group["minReplicas"], group["maxReplicas"]), **limits}
    return size, spec["excludeHeadPodFromServeSvc"]


def test_worker_is_as_large_as_the_largest_replica() -> None:
    options = {"num_cpus": 6, "num_gpus": 2}
    size, _ = sized({"num_replicas": 3, "ray_actor_options": options})
    assert size == {"workers": (3, 3), "cpu": "6", "memory": "2Gi", "nvidia.com/gpu": "2"}


@pytest.mark.parametrize(
    ("deployment", "workers"),
    [
        ({"ray_actor_options": {"num_cpus": 1}}, (1, 1)),
        ({"ray_actor_options": {"num_cpus": 1.5}}, (1, 2)),
        ({"ray_actor_options": {"num_cpus": 1.5}, "max_surge_percent": 0}, (1, 1)),
        ({"num_replicas": 8, "ray_actor_options": {"num_cpus": 1, "num_gpus": 1}}, (8, 9)),
    ],
)
def test_there_may_be_one_more_worker_where_an_update_needs_it(
    deployment: dict[str, Any], workers: tuple[int, int]
) -> None:
    """Models start a new replica before an old one stops; KubeRay's autoscaler adds the worker."""
    own = {"name": "a", "import_path": "deployments.closure:build", "deployments": [deployment]}
    spec = render({"applications": [own]}, {}, DEFAULT_IMAGE)["spec"]
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == workers


def test_shares_of_a_gpu_do_not_span_two() -> None:
    size, _ = sized({"num_replicas": 5, "ray_actor_options": {"num_cpus": 0, "num_gpus": 0.4}})
    assert size["workers"] == (3, 3)


def test_head_takes_requests_where_all_workers_may_be_gone() -> None:
    size, head_is_excluded = sized({"autoscaling_config": {"min_replicas": 0, "max_replicas": 3}})
    assert size["workers"] == (0, 2)
    assert not head_is_excluded
    assert sized({})[1]


@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_kuberay_makes_the_token_that_rays_processes_ask_for(mode: str) -> None:
    """ray-operator/controllers/ray/common/pod.go sets it in all containers of Ray."""
    config = read_document(ROOT / "configs" / "app.yaml")
    environment = {**ENVIRONMENT, "RAY_AUTH_MODE": mode}
    cluster = render(config, environment, DEFAULT_IMAGE)["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": mode}
    (container,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"name": "RAY_AUTH_MODE", "value": mode} in container["env"]
    assert ENVIRONMENT["RAY_AUTH_MODE"] == "token"


def test_network_policy_opens_only_the_port_of_clients() -> None:
    _, policy = yaml.safe_load_all((ROOT / "k8s" / "rayservice.yaml").read_text())
    labels = groups("app.yaml")[0]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    open_rules = [rule for rule in policy["spec"]["ingress"] if "from" not in rule]
    assert open_rules == [{"ports": [{"port": 8000}]}]


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema of Kubernetes as plain JSON schema that refuses unknown fields.

    Kubernetes itself drops them. `x-kubernetes-int-or-string` comes with an `anyOf` that says it;
    the other extensions are about merging, or rules in another language.
    """
    rules = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if "properties" in rules:
        rules["properties"] = {key: closed(value) for key, value in rules["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            rules["additionalProperties"] = False
    elif isinstance(rules.get("additionalProperties"), dict):
        rules["additionalProperties"] = closed(rules["additionalProperties"])
    if "items" in rules:
        rules["items"] = closed(rules["items"])
    return rules


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    """KubeRay's definition of ray.io/v1 RayService."""
    if not SCHEMA.is_file():
        pytest.skip(f"KubeRay's resource definition is not at {SCHEMA}")
    definition = yaml.load(SCHEMA.read_text(), Loader=yaml.CSafeLoader)
    versions = {version["name"]: version for version in definition["spec"]["versions"]}
    schema = closed(versions["v1"]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(schema)


@pytest.mark.parametrize("config", ["app.yaml", "gpu.yaml"])
def test_kuberay_takes_the_manifest(config: str, validator: Draft202012Validator) -> None:
    validator.validate(service(config))


def test_fields_that_kuberay_would_drop_are_found(validator: Draft202012Validator) -> None:
    manifest = service()
    (group,) = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    container = group["template"]["spec"]["containers"][0]
    container["readynessProbe"] = container.pop("readinessProbe")
    container["resources"]["limits"]["cpu"] = [2]
    group["minReplicas"] = "1"
    faults = {error.json_path.split(".")[-1] for error in validator.iter_errors(manifest)}
    assert faults == {"containers[0]", "cpu", "minReplicas"}


def test_image_has_what_the_manifest_names() -> None:
    """No image is built here, so its recipe is read."""
    for application in serve_config()["applications"]:
        path = application["args"].get("model", {}).get("path")
        assert path is None or path.startswith(f"{IMAGE_DIRECTORY}/models/")
    assert f"COPY --from=models {IMAGE_DIRECTORY}/models {IMAGE_DIRECTORY}/models" in DOCKERFILE
    assert re.search(rf"^WORKDIR {IMAGE_DIRECTORY}$", DOCKERFILE, re.M)
    assert re.search(rf"^USER {IMAGE_USER}:{IMAGE_USER}$", DOCKERFILE, re.M)
    assert f"-t {DEFAULT_IMAGE} ." in DOCKERFILE
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M)
    sources = {name for names in copied for name in names.split()}
    assert {name for name in sources if not (ROOT / name).exists()} <= {"README.md"}


def test_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ray.__version__ == RAY_VERSION
    assert f"ray[serve]=={RAY_VERSION}" in project["optional-dependencies"]["serve"]
    assert f"{project['name']}:{project['version']}" == DEFAULT_IMAGE
    assert "FROM python:3.11-" in DOCKERFILE
    assert project["requires-python"].startswith(">=3.11")
