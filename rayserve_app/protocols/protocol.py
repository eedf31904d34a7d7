"""What every protocol offers: routes, and a rendering of errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from rayserve_app.errors import ServingError
from rayserve_app.http import Handler, Response
from rayserve_app.model import Model


class Route(NamedTuple):
    """One path below the model's prefix, and the verb that it answers."""

    method: str
    path: str
    handler: Handler


class Protocol(ABC):
    """One protocol on one model."""

    name: ClassVar[str]

    def __init__(self, model: Model) -> None:
        self.model = model

    @abstractmethod
    def routes(self) -> Sequence[Route]:
        """Return the routes; a handler raises ServingError where it cannot answer."""

    @abstractmethod
    def render_error(self, error: ServingError) -> Response:
        """Return the protocol's own error answer."""
