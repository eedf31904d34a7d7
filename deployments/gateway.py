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
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from ray import serve
from ray.serve import Application, Deployment

from deployments.internals.middleware import IngressDeployment
from deployments.internals.served_models import (
    GATEWAY_DEPLOYMENT,
    LEAST_PERIOD_S,
    Controller,
    served_models,
)
from deployments.replica.application import HEALTH_CHECK_PERIOD_S, HEALTH_CHECK_TIMEOUT_S
from deployments.replica.logs import set_up_logs
from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.settings.model import MAX_SURGE_PERCENT
from rayserve_app.settings.section import parse_section

logger = logging.getLogger(__name__)

PERIOD_S: Final = 1.0

MAX_REQUESTS: Final = 1024


def build(args: dict[str, Any]) -> Application:
    """Return the Serve application of a gateway.

    Args:
        args: `{"gateway": {…}}`, as GatewaySettings says.
    Raises:
        ConfigurationError: with the key's path.
    """
    settings = parse_section(GatewaySettings, args, "gateway")
    deploy = serve.deployment(
        name=GATEWAY_DEPLOYMENT,
        max_surge_percent=MAX_SURGE_PERCENT,
        max_ongoing_requests=MAX_REQUESTS,
        max_queued_requests=MAX_REQUESTS,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
    )
    deployment: Deployment = deploy(serve.ingress()(GatewayDeployment))
    return deployment.bind(settings)


class GatewayDeployment(IngressDeployment):
    """One replica of a gateway."""

    async def __init__(self, settings: GatewaySettings) -> None:  # type: ignore[misc]
        set_up_logs(serve.get_replica_context())
        self._controller = Controller()
        self._directory = Directory()
        self._gateway = Gateway(settings, self._directory)
        self._known: Mapping[str, ServedModel] = {}
        self._has_changed = asyncio.Event()
        await self._learn()
        self._tasks = [
            asyncio.create_task(self._keep_learning()),
            asyncio.create_task(self._controller.listen(self._has_changed.set)),
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

    async def _learn(self) -> None:
        self._known = served_models(await self._controller.ask(), self._known)
        self._directory.update(self._known.values())
        self._gateway.connections.keep_only(
            [address for model in self._known.values() for address in model.replicas]
        )

    async def __del__(self) -> None:
        for task in getattr(self, "_tasks", ()):
            task.cancel()
        if hasattr(self, "_gateway"):
            self._gateway.connections.close()
