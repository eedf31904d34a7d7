"""Which paths the gateway serves, and how each tells the model it is for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.importing import import_from_string
from rayserve_app.protocols.protocol import Means, Protocol
from rayserve_app.settings.protocols import PROTOCOLS
from rayserve_app.web.routing import Router


class Destination(NamedTuple):
    """Where a path leads to."""

    protocol: type[Protocol]
    """What claims the path, and says what goes wrong in its own words."""
    means: Means


Claimant: TypeAlias = tuple[Destination, Mapping[str, str]]
"""Whose a path may be, with the values of its parameters."""

METRICS: Final = "/metrics"


def import_protocols(names: Iterable[str]) -> list[type[Protocol]]:
    """Return the protocols of these names."""
    return [import_from_string(PROTOCOLS[name]) for name in names]


def create_router(settings: GatewaySettings) -> Router[Destination]:
    """Return the router of all paths of the gateway's protocols, but `GET /`."""
    router: Router[Destination] = Router()
    protocols = import_protocols(settings.protocols)
    for protocol in protocols:
        for route in protocol.ROUTES:
            destination = Destination(protocol, route.means)
            if (route.method, route.path) != ("GET", "/"):
                router.add(route.method, route.path, destination)
            if route.means is Means.BEFORE_IT:
                router.add(route.method, "/{model}" + route.path, destination)
    if not router.find(METRICS):
        # Every model has it, for Prometheus.
        router.add("GET", METRICS, Destination(protocols[0], Means.ALL))
    return router


def those_meant(
    claimants: Sequence[Claimant], headers: Mapping[bytes, bytes]
) -> Sequence[Claimant]:
    """Return those of several claimants whose mark a request has; if it has none, those without
    one; all if that is nobody."""
    marked = [each for each in claimants if each[0].protocol.MARK in headers]
    return marked or [each for each in claimants if each[0].protocol.MARK is None] or claimants
