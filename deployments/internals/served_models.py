"""Which models Serve's controller knows, and where their replicas listen.

Its answers to actor calls, which are private, say where. Where one of these calls, or an answer, is
not as it is known, Ray's dashboard is asked by its documented REST API (GET
/api/serve/applications/), whose answer has the same form and names the servers for clients:
requests then go through Serve's HAProxy or, without it, Serve's own proxy.

What is known of a model stays until something better is known: while the controller is away, or
does not know the replicas again yet.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final, NamedTuple

import ray
from ray.serve.schema import ApplicationStatus, TargetGroup

from deployments.internals.versions import NotAsKnown, check_versions, warn
from rayserve_app.errors import ConfigurationError
from rayserve_app.gateway.deadlines import model_at_gateway
from rayserve_app.gateway.replicas import Address, ServedModel
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.operations.server.access import headers
from rayserve_app.operations.server.applications import get_json
from rayserve_app.protocols.sagemaker.names import targets
from rayserve_app.settings.model import DeadlineSettings
from rayserve_app.settings.section import parse_section

logger = logging.getLogger(__name__)

TIMEOUT_S: Final = 10.0

LOOPBACK: Final = "127.0.0.1"

ANY_HOST: Final = ("0.0.0.0", "::", "")

LEAST_PERIOD_S: Final = 0.05
"""However often something changes."""

RECOVERING: Final = "RECOVERING"
"""What a replica is that a new controller has not asked yet."""

READY: Final = frozenset({"RUNNING", RECOVERING})

MISFITS: Final = (AttributeError, ImportError, KeyError, TypeError)
"""What is raised where the controller is not as it is known; others are, while it is away."""

MODEL_DEPLOYMENT: Final = "Model"
"""What the deployment of every model is named."""

GATEWAY_DEPLOYMENT: Final = "Gateway"
"""And that of every gateway."""


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


class Controller:
    """Serve's controller, as those ask it that want to know of its applications."""

    def __init__(self) -> None:
        self._is_known = True
        try:
            check_versions()
        except NotAsKnown as error:
            self._give_up(error)
        self._dashboard_url: str | None = None

    async def ask(self) -> Told:
        """Ask for what there is now.

        Raises:
            Exception: nobody answers.
        """
        if self._is_known:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    return await self._ask_it()
            except MISFITS as error:
                self._give_up(error)
        return await asyncio.to_thread(self._ask_dashboard)

    async def listen(self, on_change: Callable[[], None]) -> None:
        """Hear of it when HAProxy does that replicas have come or gone; returns where it is not
        known how."""
        seen = -1
        while self._is_known:
            try:
                from ray.serve._private.long_poll import LongPollNamespace

                key = LongPollNamespace.TARGET_GROUPS
                update: Any = await _handle().listen_for_change.remote({key: seen})
                if isinstance(update, dict):  # else nothing has changed for some time
                    seen = update[key].snapshot_id
                    on_change()
            except MISFITS as error:
                self._give_up(error)
            except Exception as error:
                logger.debug("Serve's controller could not be listened to: %s", error)
            await asyncio.sleep(LEAST_PERIOD_S)

    async def _ask_it(self) -> Told:
        controller = _handle()
        answers: Any = await asyncio.gather(
            controller.get_serve_instance_details.remote(),
            controller.get_target_groups.remote(from_proxy_manager=True),
            controller.get_target_groups.remote(),
        )
        return _told(*answers)

    def _ask_dashboard(self) -> Told:
        """Ask by public names alone; the groups are those of proxies then. Blocks."""
        from ray.job_submission import JobSubmissionClient

        if self._dashboard_url is None:
            gcs_address = ray.get_runtime_context().gcs_address
            self._dashboard_url = JobSubmissionClient(gcs_address).get_address()
        url = f"{self._dashboard_url}/api/serve/applications/"
        details = get_json(url, headers(os.environ))
        if not details:
            self._dashboard_url = None
            raise ConnectionError(f"No answer from {url}")
        groups = [TargetGroup.model_validate(group) for group in details["target_groups"]]
        return _told(details, groups, groups)

    def _give_up(self, error: Exception) -> None:
        self._is_known = False
        warn(error)


def _handle() -> Any:
    """Return the handle of Serve's controller, which outlives its process."""
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    return ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)


def _told(
    details: Mapping[str, Any], groups: Sequence[TargetGroup], proxies: Sequence[TargetGroup]
) -> Told:
    """Check the form of what was told.

    Raises:
        KeyError, TypeError: it is another.
    """
    for application in details["applications"].values():
        for key in ("deployments", "route_prefix", "status"):
            application[key]
    if not all(isinstance(group, TargetGroup) for group in (*groups, *proxies)):
        raise TypeError(f"Serve's controller names no target groups, but {groups!r}, {proxies!r}")
    host = details["http_options"].get("host", LOOPBACK)
    find_address: Callable[[], str] = ray.util.get_node_ip_address
    here = {find_address(): LOOPBACK if host in ANY_HOST else host}
    return Told(details["applications"], groups, proxies, here)


class ModelsByPath:
    """Knows whose a path is, for who does not know all along."""

    PERIOD_S: Final = 1.0

    def __init__(self) -> None:
        self._controller = Controller()
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
                told = await self._controller.ask()
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
            if not replicas and RECOVERING in states and before:
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
        if group.protocol == "HTTP"
        for target in group.targets
    )
