"""A KubeRay RayService made from a Serve YAML, and the NetworkPolicy that it needs.

Source: KubeRay's API reference of ray.io/v1, and ray-operator/controllers/ray/common/pod.go for
what the operator adds to the pods. Checked against the schema of its resource definition; no
cluster has run it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

import yaml

from rayserve_app.operations.checks import Demand, demands
from rayserve_app.operations.serve_yaml import applications_of, read_document
from rayserve_app.operations.server import access
from rayserve_app.operations.server.settings import (
    DEFAULT_HTTP_PORT,
    ONE_MACHINE,
    file_beside,
    longest_answer_s,
    serve_variables,
)

NAME = "rayserve-app"
DEFAULT_IMAGE = "rayserve-app:0.1.0"
RAY_VERSION = "2.60.0"

IMAGE_DIRECTORY = "/app"
"""Where k8s/Dockerfile puts `models/`."""

IMAGE_USER = 1000

HEAD_PORTS = {"gcs-server": 6379, "client": 10001, "dashboard": 8265}
METRICS_PORT = 8080
HAPROXY_METRICS_PORT = 9101
AGENT_PORT = 52365

WORKER_CPUS = 2
"""The smallest worker; a group's workers are as large as its largest replica, if that is more."""

REPLICA_MEMORY_GI = 2
"""Room for a framework and a model of average size; an estimate to be corrected by measuring."""

DRAINING_S = 30
"""Ray's default of RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S, which is right here."""

HEADER = """\
# Made by: rayserve-app manifest {arguments} > k8s/rayservice.yaml
# Change {config} and make it anew. The image is that of k8s/Dockerfile.
#
# KubeRay 1.5.1 or later, which makes the token that Ray asks for: whoever gets in runs code.
# Clients use the Service {name}-serve-svc, port {port}, which is the only one meant for them.
# HAProxy's metrics (9101), Ray's (8080) and the replicas' own servers ask nobody who calls. The
# NetworkPolicy shuts them, where the cluster's network plugin enforces policies.
"""


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block, and what occurs twice in full."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def manifest(
    config_path: Path, *, environment_file: Path | None = None, image: str | None = None
) -> str:
    """Return k8s/rayservice.yaml as text; the same files give the same bytes.

    Args:
        environment_file: variables of Serve's; the `serve.env` beside the config, if any.
    """
    config = read_document(config_path)
    applications_of(config)
    environment = serve_variables(environment_file or file_beside(config_path))
    port = _serve_port(config)
    options = {"--environment": environment_file, "--image": image}
    given = [f" {option} {value}" for option, value in options.items() if value]
    header = HEADER.format(
        arguments=f"{config_path}{''.join(given)}",
        config=config_path,
        name=NAME,
        port=port,
    )
    documents = [render(config, environment, image or DEFAULT_IMAGE), network_policy(port)]
    return header + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=100)


def render(config: Mapping[str, Any], environment: Mapping[str, str], image: str) -> dict[str, Any]:
    """Return the RayService of a Serve config, with these variables in all its pods."""
    variables = [
        {"name": key, "value": value}
        for key, value in environment.items()
        if key not in ONE_MACHINE
    ]
    container = {
        "image": image,
        "env": variables,
        "securityContext": _security_context(),
    }
    ports = {"metrics": METRICS_PORT, "serve": _serve_port(config)}
    asked = list(demands(config))
    kinds = {
        "cpu": [demand for demand in asked if not demand.num_gpus],
        "gpu": [demand for demand in asked if demand.num_gpus],
    }
    groups = [
        _worker_group(name, members, container, ports, longest_answer_s(environment) or 60)
        for name, members in kinds.items()
        if members
    ]
    serve_config = yaml.dump(_serve_config(config), Dumper=_Dumper, sort_keys=False, width=100)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": NAME},
        "spec": {
            # The head holds the cluster's state and runs no model: uploads stay away from it,
            # unless all workers may be gone and it is the one that is left to take a request.
            "excludeHeadPodFromServeSvc": any(group["minReplicas"] for group in groups),
            "serveConfigV2": serve_config,
            "rayClusterConfig": {
                "rayVersion": RAY_VERSION,
                "authOptions": {"mode": environment.get(access.MODE, "token")},
                "enableInTreeAutoscaling": True,
                "autoscalerOptions": {
                    "version": "v2",
                    "idleTimeoutSeconds": 300,
                    "resources": _resources("500m", "1Gi"),
                    "env": variables,
                    "securityContext": _security_context(),
                },
                "headGroupSpec": _head_group(container, ports),
                "workerGroupSpecs": groups,
            },
        },
    }


def network_policy(serve_port: int) -> dict[str, Any]:
    """Return who may call the pods: anyone where clients do, else only who must."""
    operator = {"app.kubernetes.io/component": "kuberay-operator"}
    prometheus = {"app.kubernetes.io/name": "prometheus"}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": NAME},
        "spec": {
            "podSelector": {"matchLabels": _labels()},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [{"port": serve_port}]},
                {"from": [{"podSelector": {"matchLabels": _labels()}}]},
                _admit(operator, HEAD_PORTS["dashboard"]),
                _admit(prometheus, METRICS_PORT, HAPROXY_METRICS_PORT),
            ],
        },
    }


def _admit(labels: Mapping[str, str], *ports: int) -> dict[str, Any]:
    """Return a rule for pods of any namespace."""
    peer = {"namespaceSelector": {}, "podSelector": {"matchLabels": dict(labels)}}
    return {"from": [peer], "ports": [{"port": port} for port in ports]}


def _serve_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config as it runs in pods: HAProxy on all addresses, models from the image."""
    applications = [
        {**application, "args": _in_image(application["args"])}
        if "args" in application
        else application
        for application in config["applications"]
    ]
    http_options = {**(config.get("http_options") or {}), "host": "0.0.0.0"}
    return {**config, "http_options": http_options, "applications": applications}


def _in_image(value: Any) -> Any:
    """Return arguments whose paths below `models/` are the image's."""
    if isinstance(value, dict):
        return {key: _in_image(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_in_image(item) for item in value]
    if isinstance(value, str) and value.startswith("models/"):
        return f"{IMAGE_DIRECTORY}/{value}"
    return value


def _serve_port(config: Mapping[str, Any]) -> int:
    port: int | None = (config.get("http_options") or {}).get("port")
    return port or DEFAULT_HTTP_PORT


def _head_group(container: Mapping[str, Any], ports: Mapping[str, int]) -> dict[str, Any]:
    head = {
        "name": "ray-head",
        **container,
        "ports": _ports({**HEAD_PORTS, **ports}),
        "resources": _resources("2", "4Gi"),
        # The operator sends the config to the dashboard as soon as the pod is ready.
        "readinessProbe": _probe("/api/gcs_healthz", HEAD_PORTS["dashboard"], failures=3),
        "livenessProbe": _probe("/api/healthz", AGENT_PORT, failures=30),
    }
    return {
        "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},
        "template": _pod_template({"containers": [head]}),
    }


def _worker_group(
    name: str,
    asked: Sequence[Demand],
    container: Mapping[str, Any],
    ports: Mapping[str, int],
    longest_request_s: int,
) -> dict[str, Any]:
    """Return workers of one kind: as many as the replicas need at least, up to their maximum, with
    room for what an update of one deployment starts beside it."""
    cpus = max(WORKER_CPUS, *(ceil(demand.num_cpus) for demand in asked))
    gpus = max(ceil(demand.num_gpus) for demand in asked)
    least = _workers(asked, [demand.at_least for demand in asked], cpus, gpus)
    most = max(_workers(asked, replicas, cpus, gpus) for replicas in _during_updates(asked))
    replicas = max(sum(demand.at_least for demand in asked), 1)
    memory_gi = REPLICA_MEMORY_GI * ceil(replicas / max(least, 1))
    # First the Service forgets the pod, then the requests that it has sent there end.
    sleep_s = longest_request_s + 5
    worker = {
        "name": "ray-worker",
        **container,
        "ports": _ports(ports),
        "resources": _resources(str(cpus), f"{memory_gi}Gi", gpus),
        # HAProxy runs where replicas do, and answers 200 while one of them, anywhere, is up.
        "readinessProbe": _probe("/-/healthz", ports["serve"], failures=2),
        "livenessProbe": _probe("/api/local_raylet_healthz", AGENT_PORT, failures=30),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(sleep_s)]}}},
    }
    pod: dict[str, Any] = {
        "terminationGracePeriodSeconds": sleep_s + DRAINING_S,
        "automountServiceAccountToken": False,
        "containers": [worker],
    }
    if gpus:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    return {
        "groupName": name,
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": max(most, 1),
        "rayStartParams": {},
        "template": _pod_template(pod),
    }


def _during_updates(asked: Sequence[Demand]) -> list[list[int]]:
    """Return how many replicas each deployment has at most while one of them is updated: the one or
    the other."""
    return [
        [each.at_most + (each.surge(each.at_most) if each is updated else 0) for each in asked]
        for updated in asked
    ]


def _workers(asked: Sequence[Demand], replicas: Sequence[int], cpus: int, gpus: int) -> int:
    """Return how many workers hold so many replicas of each deployment."""
    counted = list(zip(asked, replicas, strict=True))
    by_cpu = ceil(sum(demand.num_cpus * count for demand, count in counted) / cpus)
    by_gpu = sum(_gpus(demand.num_gpus, count) for demand, count in counted)
    return max(by_cpu, ceil(by_gpu / gpus) if gpus else 0)


def _gpus(share: Fraction, count: int) -> int:
    """Return how many GPUs hold so many replicas; a share does not span two."""
    if 0 < share < 1:
        return ceil(count / floor(1 / share))
    return ceil(share) * count


def _pod_template(spec: Mapping[str, Any]) -> dict[str, Any]:
    identity = {"runAsNonRoot": True, "runAsUser": IMAGE_USER, "runAsGroup": IMAGE_USER}
    security = {**identity, "seccompProfile": {"type": "RuntimeDefault"}}
    return {"metadata": {"labels": _labels()}, "spec": {"securityContext": security, **spec}}


def _labels() -> dict[str, str]:
    return {"app.kubernetes.io/part-of": NAME}


def _security_context() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _ports(ports: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"name": name, "containerPort": port} for name, port in ports.items()]


def _probe(path: str, port: int, *, failures: int) -> dict[str, Any]:
    """Return an HTTP probe; KubeRay's own run `wget`, which the image does not have."""
    request = {"path": path, "port": port}
    return {
        "httpGet": request,
        "periodSeconds": 5,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _resources(cpu: str, memory: str, gpus: int = 0) -> dict[str, Any]:
    """Return requests and limits, which are the same: Ray counts on all of a pod."""
    amounts = {"cpu": cpu, "memory": memory, **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    return {"requests": amounts, "limits": amounts}
