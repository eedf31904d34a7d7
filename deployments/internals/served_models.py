"""Which models Serve's controller knows, and where their replicas listen.

What is known of a model stays until something better is known: while the controller is away, or
does not know the replicas again yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final, NamedTuple

import ray
from ray.serve._private.common import ReplicaState, RequestProtocol
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.schema import ApplicationStatus, TargetGroup

from rayserve_app.errors import ConfigurationError
from rayserve_app.gateway.deadlines import model_at_gateway
from rayserve_app.gateway.replicas import Address, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.protocols.sagemaker.names import targets
from rayserve_app.settings.model import DeadlineSettings
from rayserve_app.settings.section import parse_section

logger = logging.getLogger(__name__)

TIMEOUT_S: Final = 10.0

LOOPBACK: Final = "127.0.0.1"

ANY_HOST: Final = ("0.0.0.0", "::", "")

READY: Final = frozenset({ReplicaState.RUNNING, ReplicaState.RECOVERING})

MODEL_DEPLOYMENT: Final = "Model"
"""What the deployment of every model is named."""

GATEWAY_DEPLOYMENT: Final = "Gateway"
"""And that of every gateway."""


def find_controller() -> Any:
    """Return the handle of Serve's controller, which outlives its process."""
    return ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)


class Told(NamedTuple):
    """What Serve's controller tells of its applications."""

    applications: Mapping[str, Any]
    """By name, as `ServeInstanceDetails` has them; empty where it has lost its memory for a while:
    who asks is part of one."""
    groups: Sequence[TargetGroup]
    """Where the replicas of each application listen, if they do themselves."""
    proxies: Sequence[TargetGroup]
    """Where Serve's proxies listen."""
    hosts: Mapping[str, str]
    """Under which address a node's own can be reached from here, if not that: Serve names nodes,
    but on the loopback of this one its servers may listen alone."""


async def ask(controller: Any) -> Told:
    """Ask Serve's controller.

    Raises:
        TimeoutError: it has not answered within TIMEOUT_S.
    """
    async with asyncio.timeout(TIMEOUT_S):
        answers: Any = await asyncio.gather(
            controller.get_serve_instance_details.remote(),
            controller.get_target_groups.remote(from_proxy_manager=True),
            controller.get_target_groups.remote(),
        )
    details, groups, proxies = answers
    host = details["http_options"].get("host", LOOPBACK)
    find_address: Callable[[], str] = ray.util.get_node_ip_address
    here = {find_address(): LOOPBACK if host in ANY_HOST else host}
    return Told(details["applications"], groups, proxies, here)


class ModelsByPath:
    """Knows whose a path is, for who does not know all along."""

    PERIOD_S: Final = 1.0

    def __init__(self) -> None:
        self._models: Mapping[str, ServedModel] = {}
        self._gateways: Mapping[str, GatewaySettings] = {}
        self._prefixes: Collection[str] = ()
        """Those of all applications: below a gateway's may be those of others that are not ours."""
        self._asked_at = float("-inf")

    async def find(self, path: str) -> ServedModel | None:
        """Return the model that a path means, None if none is known or it is another application's;
        one that has no prefix there is a gateway's."""
        if monotonic() - self._asked_at > self.PERIOD_S:
            self._asked_at = monotonic()
            try:
                told = await ask(find_controller())
                self._models = served_models(told, self._models)
                self._gateways = gateways(told.applications) or self._gateways
                self._prefixes = prefixes(told.applications) or self._prefixes
            except Exception as exc:
                logger.debug("Serve's controller could not be asked for the models: %s", exc)
        models = {model.prefix: model for model in self._models.values()}
        prefix = _longest(path, [*models, *self._gateways, *self._prefixes])
        if prefix in models:
            return models[prefix]
        if prefix is None or prefix not in self._gateways or not models:
            return None
        settings = self._gateways[prefix]
        return model_at_gateway(path.removeprefix(prefix), settings, models.values())._replace(
            prefix=prefix, protocols=settings.protocols
        )


def _longest(path: str, prefixes: Iterable[str]) -> str | None:
    """Return the longest prefix that is one of the path's, by whole segments."""
    found = [each for each in prefixes if f"{path}/".startswith(f"{each}/")]
    return max(found, key=len, default=None)


def prefixes(applications: Mapping[str, Any]) -> set[str]:
    """Return the prefixes of Serve's applications, ours and others', without a final slash."""
    found = (application["route_prefix"] for application in applications.values())
    return {prefix.rstrip("/") for prefix in found if prefix}


def gateways(applications: Mapping[str, Any]) -> dict[str, GatewaySettings]:
    """Return the settings of the gateways among Serve's applications, by their prefixes."""
    found = {}
    for application in applications.values():
        args = (application.get("deployed_app_config") or {}).get("args") or {}
        if GATEWAY_DEPLOYMENT in application["deployments"] and application["route_prefix"]:
            prefix = application["route_prefix"].rstrip("/")
            with suppress(ConfigurationError):  # another's, or a YAML with a fault
                found[prefix] = parse_section(GatewaySettings, args, "gateway")
    return found


def served_models(told: Told, known: Mapping[str, ServedModel]) -> dict[str, ServedModel]:
    """Return the models among Serve's applications, by the names of these.

    Args:
        known: what was known before.
    """
    applications, groups, proxies, hosts = told
    if not applications:
        return dict(known)
    fallback = _addresses(proxies, hosts)
    listening = {group.app_name: _addresses([group], hosts) for group in groups if group.app_name}
    models: dict[str, ServedModel] = {}
    for name, application in applications.items():
        before = known.get(name)
        deployment = application["deployments"].get(MODEL_DEPLOYMENT)
        if application["status"] == ApplicationStatus.DELETING:
            continue
        if application["route_prefix"] and deployment:
            states = {replica["state"] for replica in deployment["replicas"]}
            replicas = listening.get(name, fallback)
            if not replicas and ReplicaState.RECOVERING in states and before:
                # A controller that has just begun knows that they run, but not where.
                replicas = before.replicas
            elif not replicas and not deployment["target_num_replicas"]:
                replicas = fallback
            is_expected = application["status"] != ApplicationStatus.DEPLOY_FAILED
            # Serve tells of a replica's address before it calls it running.
            is_ready = bool(listening.get(name)) or bool(states & READY)
            if application.get("deployed_app_config") or not before:
                before = _model(name, application) or before
            if before is None:
                continue
            models[name] = before._replace(
                prefix=application["route_prefix"].rstrip("/"),
                replicas=replicas,
                is_ready=is_ready,
                patience_s=before.deadline_s if is_expected else 0.0,
            )
        elif before and (deployment or not application["deployments"]):  # else another's by now
            models[name] = before
    return models


def _model(name: str, application: Mapping[str, Any]) -> ServedModel | None:
    """Return what the YAML says of an application's model; None if its arguments are those of no
    model of ours, as another's application may have them, and a YAML with a fault, which replaces
    no replica."""
    try:
        args = (application.get("deployed_app_config") or {}).get("args") or {}
        settings = args.get("model") or {}
        deadline = DeadlineSettings.model_validate(settings.get("deadline") or {})
        model_name = str(settings.get("name") or name)
        return ServedModel(
            name=model_name,
            prefix="",
            replicas=(),
            targets=frozenset(targets(model_name, settings.get("path"))),
            deadline_s=deadline.latency_ms / 1e3,
            protocols=tuple(settings.get("protocols") or ()),
        )
    except (AttributeError, TypeError, ValueError):
        return None


def _addresses(groups: Sequence[TargetGroup], hosts: Mapping[str, str]) -> tuple[Address, ...]:
    return tuple(
        Address(hosts.get(target.ip, target.ip), target.port)
        for group in groups
        if group.protocol == RequestProtocol.HTTP
        for target in group.targets
    )
