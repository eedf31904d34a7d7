"""What stands under `args` of a gateway in the YAML."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rayserve_app.settings.protocols import PROTOCOLS, CorsSettings, ProtocolNames
from rayserve_app.settings.section import Section


class GatewaySettings(Section):
    """One gateway: the protocols whose un-prefixed paths it serves."""

    protocols: ProtocolNames = Field(default_factory=lambda: tuple(PROTOCOLS))
    """Where two claim one path, the first one answers, or its default model where none is named."""
    default_model: str | dict[str, str] = Field(default_factory=dict)
    """The model that paths without a name mean: for all protocols, or by protocol."""
    cors: CorsSettings | None = None
    """Pages from elsewhere that a browser lets call what the gateway serves; none if not set."""
    max_read_mb: Annotated[float, Field(gt=0, le=256)] = 64
    """The largest JSON body that is read for the name of the model in it."""
    max_buffered_mb: Annotated[float, Field(gt=0)] = 512
    """All bodies together that are read at one time."""
    body_timeout_s: Annotated[float, Field(gt=0)] = 10
    """Longest pause before a body begins, and within one that is read. While a body is forwarded,
    its model's own limits hold."""

    @property
    def order(self) -> tuple[str, ...]:
        """Which of the protocols answers a path that several claim; if none is named, each model's
        own order says so."""
        return self.protocols if "protocols" in self.model_fields_set else ()

    def default_for(self, protocol: str) -> str | None:
        """Return the name of the model for a path of the protocol that names none."""
        if isinstance(self.default_model, str):
            return self.default_model
        return self.default_model.get(protocol)
