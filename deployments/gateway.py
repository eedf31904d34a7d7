"""A gateway as a Serve application: `import_path: deployments.gateway:build`.

It learns from Serve's controller once a second which models there are and where their replicas
listen, and forwards to the replicas themselves; where they do not listen, as without HAProxy, to
Serve's own proxy on this node.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import ray
from ray import serve
from ray.serve import Application, Deployment
from ray.serve._private.common import RequestProtocol
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.schema import TargetGroup

from deployments.application import IngressDeployment
from deployments.logs import set_up_logs
from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Address, Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.protocols.sagemaker.names import targets
from rayserve_app.section import parse_section
from rayserve_app.settings import MAX_SURGE_PERCENT

logger = logging.getLogger(__name__)

PERIOD_S: Final = 1.0

CONTROLLER_TIMEOUT_S: Final = 10.0

MAX_REQUESTS: Final = 1024

LOOPBACK: Final = "127.0.0.1"

ANY_HOST: Final = ("0.0.0.0", "::", "")

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
        set_up_logs(serve.get_replica_context())
        self._controller = ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
        self._directory = Directory()
        self._gateway = Gateway(settings, self._directory)
        await self._learn()
        self._learning = asyncio.create_task(self._keep_learning())

    def __serve_build_asgi_app__(self) -> Gateway:
        IngressDeployment.app = self._gateway
        return self._gateway

    async def _keep_learning(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                await self._learn()
            except Exception:
                # The controller may be away for a while; what is known stays.
                logger.exception("Serve's controller could not be asked for the models")

    async def _learn(self) -> None:
        async with asyncio.timeout(CONTROLLER_TIMEOUT_S):
            answers: Any = await asyncio.gather(
                self._controller.get_serve_instance_details.remote(),
                self._controller.get_target_groups.remote(from_proxy_manager=True),
                self._controller.get_target_groups.remote(),
            )
        details, groups, proxies = answers
        host = details["http_options"].get("host", LOOPBACK)
        here = {ray.util.get_node_ip_address(): LOOPBACK if host in ANY_HOST else host}
        models = served_models(details["applications"], groups, proxies, here)
        self._directory.update(models)
        self._gateway.connections.keep_only(
            [address for model in models for address in model.replicas]
        )

    async def __del__(self) -> None:
        if hasattr(self, "_learning"):
            self._learning.cancel()
            self._gateway.connections.close()


def served_models(
    applications: Mapping[str, Any],
    groups: Sequence[TargetGroup],
    proxies: Sequence[TargetGroup],
    hosts: Mapping[str, str],
) -> list[ServedModel]:
    """Return the models among Serve's applications.

    Args:
        applications: by name, as `ServeInstanceDetails` has them.
        groups: where the replicas of each application listen, if they do themselves.
        proxies: where Serve's proxies listen, for models that have no such replica.
        hosts: under which address a node's own can be reached from here, if not that: Serve names
            nodes, but on the loopback of this one its servers may listen alone.
    """
    fallback = _addresses(proxies, hosts)
    listening = {group.app_name: _addresses([group], hosts) for group in groups if group.app_name}
    return [
        ServedModel(
            name=(model_name := str(_settings(application).get("name") or name)),
            prefix=application["route_prefix"].rstrip("/"),
            replicas=listening.get(name) or fallback,
            # Serve tells of a replica's address before it calls it running.
            is_ready=bool(listening.get(name))
            or _is_running(application["deployments"][MODEL_DEPLOYMENT]),
            targets=frozenset(targets(model_name, _settings(application).get("path"))),
        )
        for name, application in applications.items()
        if application["route_prefix"] and MODEL_DEPLOYMENT in application["deployments"]
    ]


def _addresses(groups: Sequence[TargetGroup], hosts: Mapping[str, str]) -> tuple[Address, ...]:
    return tuple(
        Address(hosts.get(target.ip, target.ip), target.port)
        for group in groups
        if group.protocol == RequestProtocol.HTTP
        for target in group.targets
    )


def _settings(application: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the YAML says of the model."""
    args = (application.get("deployed_app_config") or {}).get("args") or {}
    settings: Mapping[str, Any] = args.get("model") or {}
    return settings


def _is_running(deployment: Mapping[str, Any]) -> bool:
    return any(replica["state"] == "RUNNING" for replica in deployment["replicas"])
