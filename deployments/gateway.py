"""A gateway as a Serve application: `import_path: deployments.gateway:build`.

It learns from Serve's controller which models there are and where their replicas listen: once a
second, and when the controller says that something has changed. It forwards to the replicas
themselves; where they do not listen, as without HAProxy, or a model is scaled to zero, to Serve's
own proxy on this node. What it knows of a model stays until something better is known: while the
controller is away, or does not know the replicas again yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import ray
from ray import serve
from ray.serve import Application, Deployment
from ray.serve._private.common import ReplicaState, RequestProtocol
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve._private.long_poll import LongPollNamespace
from ray.serve.schema import ApplicationStatus, TargetGroup

from deployments.application import IngressDeployment
from deployments.logs import set_up_logs
from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.protocols.sagemaker.names import targets
from rayserve_app.section import parse_section
from rayserve_app.settings import MAX_SURGE_PERCENT, DeadlineSettings

logger = logging.getLogger(__name__)

PERIOD_S: Final = 1.0

LEAST_PERIOD_S: Final = 0.05
"""However often something changes."""

CONTROLLER_TIMEOUT_S: Final = 10.0

MAX_REQUESTS: Final = 1024

LOOPBACK: Final = "127.0.0.1"

ANY_HOST: Final = ("0.0.0.0", "::", "")

READY: Final = frozenset({ReplicaState.RUNNING, ReplicaState.RECOVERING})

MODEL_DEPLOYMENT: Final = "Model"
"""What the deployment of every model is named."""


def build(args: dict[str, Any]) -> Application:
    """Return the Serve application of a gateway.

    Args:
        args: `{"gateway": {…}}`, as GatewaySettings says.
    Raises:
        ConfigurationError: with the key's path.
    """
    settings = parse_section(GatewaySettings, args, "gateway")
    deploy = serve.deployment(
        name="Gateway",
        max_surge_percent=MAX_SURGE_PERCENT,
        max_ongoing_requests=MAX_REQUESTS,
        max_queued_requests=MAX_REQUESTS,
    )
    deployment: Deployment = deploy(serve.ingress()(GatewayDeployment))
    return deployment.bind(settings)


class GatewayDeployment(IngressDeployment):
    """One replica of a gateway."""

    async def __init__(self, settings: GatewaySettings) -> None:  # type: ignore[misc]
        context = serve.get_replica_context()
        set_up_logs(context)
        self._name = context.app_name
        self._controller = ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
        self._directory = Directory()
        self._gateway = Gateway(settings, self._directory)
        self._known: Mapping[str, ServedModel] = {}
        self._has_changed = asyncio.Event()
        await self._learn()
        self._tasks = [
            asyncio.create_task(self._keep_learning()),
            asyncio.create_task(self._listen()),
        ]

    def __serve_build_asgi_app__(self) -> Gateway:
        IngressDeployment.app = self._gateway
        return self._gateway

    async def _keep_learning(self) -> None:
        while True:
            await asyncio.sleep(LEAST_PERIOD_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_S):
                    await self._has_changed.wait()
            self._has_changed.clear()
            try:
                await self._learn()
            except Exception:
                # The controller may be away for a while; what is known stays.
                logger.exception("Serve's controller could not be asked for the models")

    async def _listen(self) -> None:
        """Hear of it when HAProxy does that replicas have come or gone."""
        key = LongPollNamespace.TARGET_GROUPS
        seen = -1
        while True:
            try:
                update: Any = await self._controller.listen_for_change.remote({key: seen})
                if isinstance(update, dict):  # else nothing has changed for some time
                    seen = update[key].snapshot_id
                    self._has_changed.set()
            except Exception as exc:
                logger.debug("Serve's controller could not be listened to: %s", exc)
            await asyncio.sleep(LEAST_PERIOD_S)

    async def _learn(self) -> None:
        async with asyncio.timeout(CONTROLLER_TIMEOUT_S):
            answers: Any = await asyncio.gather(
                self._controller.get_serve_instance_details.remote(),
                self._controller.get_target_groups.remote(from_proxy_manager=True),
                self._controller.get_target_groups.remote(),
            )
        details, groups, proxies = answers
        if self._name not in details["applications"]:
            # It knows of no gateway, though here is one: it has lost its own memory for a while.
            return
        host = details["http_options"].get("host", LOOPBACK)
        here = {ray.util.get_node_ip_address(): LOOPBACK if host in ANY_HOST else host}
        self._known = served_models(details["applications"], groups, proxies, here, self._known)
        self._directory.update(self._known.values())
        self._gateway.connections.keep_only(
            [address for model in self._known.values() for address in model.replicas]
        )

    async def __del__(self) -> None:
        for task in getattr(self, "_tasks", ()):
            task.cancel()
        if hasattr(self, "_gateway"):
            self._gateway.connections.close()


def served_models(
    applications: Mapping[str, Any],
    groups: Sequence[TargetGroup],
    proxies: Sequence[TargetGroup],
    hosts: Mapping[str, str],
    known: Mapping[str, ServedModel],
) -> dict[str, ServedModel]:
    """Return the models among Serve's applications, by the names of these.

    Args:
        applications: by name, as `ServeInstanceDetails` has them.
        groups: where the replicas of each application listen, if they do themselves.
        proxies: where Serve's proxies listen, for models that have no such replica.
        hosts: under which address a node's own can be reached from here, if not that: Serve names
            nodes, but on the loopback of this one its servers may listen alone.
        known: what was known before.
    """
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
                before = _model(name, application)
            models[name] = before._replace(
                prefix=application["route_prefix"].rstrip("/"),
                replicas=replicas,
                is_ready=is_ready,
                patience_s=before.deadline_s if is_expected else 0.0,
            )
        elif before:
            models[name] = before
    return models


def _model(name: str, application: Mapping[str, Any]) -> ServedModel:
    """Return what the YAML says of an application's model."""
    settings = ((application.get("deployed_app_config") or {}).get("args") or {}).get("model") or {}
    deadline = settings.get("deadline") or {}
    model_name = str(settings.get("name") or name)
    return ServedModel(
        name=model_name,
        prefix="",
        replicas=(),
        targets=frozenset(targets(model_name, settings.get("path"))),
        deadline_s=float(deadline.get("latency_ms", DeadlineSettings().latency_ms)) / 1e3,
    )


def _addresses(groups: Sequence[TargetGroup], hosts: Mapping[str, str]) -> tuple[Address, ...]:
    return tuple(
        Address(hosts.get(target.ip, target.ip), target.port)
        for group in groups
        if group.protocol == RequestProtocol.HTTP
        for target in group.targets
    )
