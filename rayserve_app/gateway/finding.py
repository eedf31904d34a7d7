"""Which of the models a request means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette.types import Scope

from rayserve_app.errors import ModelNotFound
from rayserve_app.gateway.naming import (
    archive_named,
    is_form,
    is_json,
    name_in_body,
    name_in_head,
    two_models,
)
from rayserve_app.gateway.replicas import Directory, ServedModel
from rayserve_app.gateway.routes import Destination
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.protocols.protocol import Means, Protocol, listed
from rayserve_app.types import Buffer

MAX_ALIASES: Final = 10_000

DEFAULT_NAME: Final = "default"
"""What simple_tensorflow_serving calls the model that requests mean which name none."""


class Finder:
    """Finds the model of a request, by all the ways in which it may be named."""

    def __init__(self, settings: GatewaySettings, models: Directory) -> None:
        self._settings = settings
        self._models = models
        self._aliases: dict[str, str] = {}
        """Models' names by further ones that clients have given them."""

    def name_further(self, name: str, model: ServedModel) -> None:
        """Let a model go by a further name."""
        if len(self._aliases) >= MAX_ALIASES:
            del self._aliases[next(iter(self._aliases))]
        self._aliases[name] = model.name

    async def model_of(
        self,
        name: str | None,
        destination: Destination,
        headers: Mapping[bytes, bytes],
        scope: Scope,
        read: Callable[[], Awaitable[Buffer]],
    ) -> ServedModel:
        """Return the model that a request means.

        Args:
            name: in its path, if there.
            read: returns the whole body.
        Raises:
            ServingError: there is no such model, or the request names two.
        """
        protocol, archive = destination.protocol, archive_named(headers)
        target = None if archive is None else self._models.find_target(archive)
        if name is not None:
            model = self.find(name, protocol)
            # In the path of a multi-model endpoint's container is a name that only the platform
            # knows, and in the header what its client calls the model.
            if target not in (None, model):
                raise two_models(name, archive or "")
            # A field of a form, though, may be an input that is called so.
            in_head = name_in_head(headers, scope.get("query_string", b""))
            if in_head is not None and self._models.find(in_head) not in (None, model):
                raise two_models(name, in_head)
            return model
        if archive is not None and target is None:
            raise protocol.unknown_model(archive.removesuffix(".tar.gz"), self._models.names)
        name = await self._named(destination, headers, scope, read)
        if name is None and target is not None:
            return target
        model = self.find(name, protocol)
        if target not in (None, model):
            raise two_models(name or "", archive or "")
        return model

    async def _named(
        self,
        destination: Destination,
        headers: Mapping[bytes, bytes],
        scope: Scope,
        read: Callable[[], Awaitable[Buffer]],
    ) -> str | None:
        """Return the name in the query, in a header or in the body, None if there is none."""
        in_head = name_in_head(headers, scope.get("query_string", b""))
        protocol, means = destination
        reads_json = means in (Means.IN_BODY, Means.IN_BODY_OR_ANY) and is_json(headers)
        if not reads_json and not is_form(headers):
            return in_head
        name = await name_in_body(await read(), headers, protocol.MODEL_KEYS)
        if means is Means.IN_BODY_OR_ANY and self._models.find(name or "") is None:
            return self._settings.default_for(protocol.name) or next(iter(self._models.names), None)
        if in_head is not None and name not in (None, in_head):
            raise two_models(in_head, name or "")
        return name or in_head

    def find(self, name: str | None, protocol: type[Protocol]) -> ServedModel:
        """Return the model of a name; without one, or if it is DEFAULT_NAME, the protocol's default
        model, which an only model is."""
        names = self._models.names
        if name is None or (name == DEFAULT_NAME and name not in names):
            name = self._settings.default_for(protocol.name)
            if name is None and len(names) == 1:
                name = names[0]
        if name is None:
            raise ModelNotFound(
                "This path names no model, and there is no default one",
                expected=f"a path with one of {listed(names)}",
                remedy="Or set args.gateway.default_model",
            )
        # No further name hides a model's own.
        model = self._models.find(name) or self._models.find(self._aliases.get(name, ""))
        if model is None:
            raise protocol.unknown_model(name, names)
        return model
