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
from ray.serve._private.long_poll import LongPollNamespace

from deployments.internals.served_models import (
    GATEWAY_DEPLOYMENT,
    ask,
    find_controller,
    served_models,
)
from deployments.replica.application import (
    HEALTH_CHECK_PERIOD_S,
    HEALTH_CHECK_TIMEOUT_S,
    IngressDeployment,
)
from deployments.replica.logs import set_up_logs
from rayserve_app.gateway.app import Gateway
from rayserve_app.gateway.replicas import Directory, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.settings.model import MAX_SURGE_PERCENT
from rayserve_app.settings.section import parse_section

logger = logging.getLogger(__name__)

PERIOD_S: Final = 1.0

LEAST_PERIOD_S: Final = 0.05
"""However often something changes."""

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
        self._controller = find_controller()
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
        self._known = served_models(await ask(self._controller), self._known)
        self._directory.update(self._known.values())
        self._gateway.connections.keep_only(
            [address for model in self._known.values() for address in model.replicas]
        )

    async def __del__(self) -> None:
        for task in getattr(self, "_tasks", ()):
            task.cancel()
        if hasattr(self, "_gateway"):
            self._gateway.connections.close()
