"""Which paths the gateway serves, and how each tells the model it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.importing import import_from_string
from rayserve_app.protocols.protocol import Protocol, Route
from rayserve_app.settings.protocols import PROTOCOLS
from rayserve_app.web.routing import Router


class Choice(Enum):
    """How a request tells its model."""

    NAMED = "its path has the name"
    PREFIXED = "its path begins with the name, as a model's own prefix"
    READ = "its JSON body has the name"
    DEFAULT = "it does not: the protocol's default model"
    ALL = "it asks all of them"
    SERVER = "the protocol itself tells of the server"
    LOAD = "its JSON body has a further name for one of them, which knows"


class Destination(NamedTuple):
    """Where a path leads to."""

    protocol: type[Protocol]
    """What claims the path, and says what goes wrong in its own words."""
    choice: Choice


Claimant: TypeAlias = tuple[Destination, Mapping[str, str]]
"""Whose a path may be, with the values of its parameters."""

ALL_MODELS: Final = frozenset(
    {
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("GET", "/models"),
        ("GET", "/v1/models"),
        ("GET", "/v2"),
        ("GET", "/v2/health/live"),
        ("GET", "/v2/health/ready"),
        ("GET", "/v2/models/stats"),
        ("POST", "/v2/repository/index"),
    }
)
"""Paths that speak of a whole server."""

SERVER: Final = frozenset({("OPTIONS", "/"), ("GET", "/api-description")})
"""Paths that are answered from the models' names alone, by a protocol that can."""

AWS: Final = "sagemaker_runtime"

METRICS: Final = "/metrics"

AWS_TARGET: Final = b"x-amz-target"
"""The header by which AWS's JSON protocol can be told from what else is posted to `/`."""

READ: Final = ("POST", "/")
"""The path whose JSON has the model's name."""

LOAD: Final = ("POST", "/models")
"""SageMaker's platform loads a model under a name of its own."""

NAMED_BY_PREFIX: Final = {
    "clipper": (
        Route("POST", "/{model}/predict", "predict"),
        Route("POST", "/{model}/predict/", "predict"),
        Route("POST", "/{model}/update", "update"),
        Route("POST", "/{model}/update/", "update"),
    ),
    "multi_model_server": (Route("GET", "/{model}/predict", "predict"),),
}
"""Paths that are a model's prefix and one of its paths, for models whose prefix is another."""


def create_router(settings: GatewaySettings) -> Router[Destination]:
    """Return the router of all paths of the gateway's protocols, but `GET /`."""
    router: Router[Destination] = Router()
    for name in settings.protocols:
        protocol = import_from_string(PROTOCOLS[name])
        for route in protocol.ROUTES:
            if (route.method, route.path) != ("GET", "/"):
                router.add(
                    route.method, route.path, Destination(protocol, _choice(protocol, route))
                )
        for route in NAMED_BY_PREFIX.get(name, ()):
            router.add(route.method, route.path, Destination(protocol, Choice.PREFIXED))
    if not router.find(METRICS):
        # Every model has it, for Prometheus.
        router.add("GET", METRICS, Destination(protocol, Choice.ALL))
    return router


def _choice(protocol: type[Protocol], route: Route) -> Choice:
    if "{model}" in route.path:
        return Choice.NAMED
    if (route.method, route.path) in ALL_MODELS:
        return Choice.ALL
    if (route.method, route.path) in SERVER and protocol.document_of(()) is not None:
        return Choice.SERVER
    choices = {READ: Choice.READ, LOAD: Choice.LOAD}
    return choices.get((route.method, route.path), Choice.DEFAULT)


def those_meant(
    claimants: Sequence[Claimant], headers: Mapping[bytes, bytes]
) -> Sequence[Claimant]:
    """Return those of several claimants whose protocol it is, by AWS's header; all if none is."""
    is_aws = AWS_TARGET in headers
    return [each for each in claimants if (each[0].protocol.name == AWS) == is_aws] or claimants
