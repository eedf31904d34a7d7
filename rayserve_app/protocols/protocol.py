"""What every protocol offers: routes, and a rendering of errors."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

from rayserve_app.codecs.form import MULTIPART, URLENCODED
from rayserve_app.codecs.image_header import is_image
from rayserve_app.errors import ModelNotFound, ServingError
from rayserve_app.inference.batcher import Result
from rayserve_app.inference.model import Model
from rayserve_app.media_types import JSON, media_type
from rayserve_app.settings.section import Section
from rayserve_app.types import Buffer, Row
from rayserve_app.web.messages import Response, did_you_mean, no_such_method


class Means(Enum):
    """Which model a path without `{model}` means at a gateway, that is on a server of many."""

    DEFAULT = "the one that a query, a form or a header names, else the protocol's default one"
    BEFORE_IT = "the one whose name stands before the path, as a prefix; without it as `DEFAULT`"
    IN_BODY = "the one that the JSON body names, else as `DEFAULT`"
    IN_BODY_OR_ANY = "as `IN_BODY`; where no model has that name, any model says so"
    ALL = "all: their answers are put together"
    WHO_TAKES_IT = "each in turn, until one takes it, by another name that the body gives it"
    SERVER = "none: `Protocol.document_of` has the answer"


class Route(NamedTuple):
    """One path, the verb that it answers, and the method of the protocol that does.

    `{name}` in a path stands for a part of one segment, which the handler finds in
    `Request.path_params`; `{model}` is checked by `Protocol.check_name` before it is called.
    """

    method: str
    path: str
    handler: str
    means: Means = Means.DEFAULT


class Declined(Exception):
    """A request is another protocol's, which claims the same path. If none takes it, `error` is
    the answer; if it `may_be_mine`, also where the others find it malformed."""

    def __init__(self, error: ServingError, *, may_be_mine: bool = False) -> None:
        super().__init__(error)
        self.error = error
        self.may_be_mine = may_be_mine


class Protocol(ABC):
    """One protocol on one model, below the model's prefix."""

    name: ClassVar[str]

    ROUTES: ClassVar[Sequence[Route]]
    """A handler takes a `Request` and returns a `Response`; it raises ServingError where it cannot
    answer, and Declined where another protocol should."""

    FRAGMENT: ClassVar[str] = "openapi.yaml"
    """The file beside the protocol's module that describes its routes, for the OpenAPI document."""

    settings_type: ClassVar[type[Section] | None] = None
    """What a model's YAML may say of the protocol, in `protocol_settings` under its name; None if
    nothing. `ModelSettings.of_protocol` returns it."""

    MARK: ClassVar[bytes | None] = None
    """A header that only this protocol's requests have: of a path that it shares with others, it
    gets the requests with this header at a gateway, and no others."""

    MODEL_KEYS: ClassVar[Sequence[str]] = ("model_name",)
    """What a JSON body calls the model, where a route means the one `IN_BODY`."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @classmethod
    def fragment(cls) -> Path:
        """Return where `FRAGMENT` lies."""
        return Path(inspect.getfile(cls)).with_name(cls.FRAGMENT)

    @classmethod
    @abstractmethod
    def render_error(cls, error: ServingError) -> Response:
        """Return the protocol's own error answer."""

    @classmethod
    def unknown_model(cls, name: str, known: Sequence[str]) -> ServingError:
        """Return the error for a name that no model has, in the protocol's words, and those that
        some have."""
        return ModelNotFound(f"No model {shortened(name)}", remedy=those_known(name, known))

    @classmethod
    def document_of(cls, names: Sequence[str]) -> Response | None:
        """Return the protocol's own description of a server that has models of these names, None
        if there is no such thing."""
        return None

    @classmethod
    def refuse_method(cls, method: str, path: str) -> ServingError | None:
        """Return what the protocol says to a method that its path does not have; None for HTTP's
        own answer, 405."""
        return None

    def schema_examples(self) -> Mapping[str, Any]:
        """Return what is true of the model, by the schema in the OpenAPI document."""
        return {}

    def check_name(self, name: str) -> None:
        """Raise what `unknown_model` returns unless a path's `{model}` is this model."""
        if name != self.model.name:
            raise self.unknown_model(name, [self.model.name])


HEAD_BYTES: Final = 64
"""So much of a body is looked at to tell a form from JSON."""


def disowned(error: ServingError, body: Buffer, content_type: str | None) -> Exception:
    """Return what to raise for a body that is no document of a protocol to which `Content-Type`
    means nothing: Declined where that, or the body's first bytes, say that it is another's."""
    kind = media_type(content_type)
    if kind not in ("", JSON, URLENCODED) or is_image(body):
        return Declined(error)
    if kind == JSON or is_form(body, content_type):
        return Declined(error, may_be_mine=True)
    # Of no type, or of the one that curl calls any body, it is a document that went wrong.
    return error


def is_form(body: Buffer, content_type: str | None) -> bool:
    """Return whether a body is an HTML form, as far as its beginning tells: curl calls JSON one."""
    kind, start = media_type(content_type), bytes(body[:HEAD_BYTES]).lstrip()
    return kind == MULTIPART or (kind == URLENCODED and start[:1] not in (b"{", b"["))


HandlerT = TypeVar("HandlerT", bound=Callable[..., Awaitable[Response]])


def inference(handler: HandlerT) -> HandlerT:
    """Mark a handler that asks the model: a request that it refuses is one that failed, in the
    statistics of every protocol."""
    handler.is_inference = True  # type: ignore[attr-defined]
    return handler


def is_inference(handler: Callable[..., Awaitable[Response]]) -> bool:
    """Return whether a handler is marked as one that asks the model."""
    return getattr(handler, "is_inference", False)


def wrong_method(
    method: str, path: str, claims: Mapping[str, Iterable[type[Protocol] | Protocol | None]]
) -> Response:
    """Return the answer to a method that a path does not have.

    Args:
        claims: the protocols that claim the path, by the methods that it has.
    """
    for protocol in chain.from_iterable(claims.values()):
        if protocol is not None and (error := protocol.refuse_method(method, path)) is not None:
            return protocol.render_error(error)
    return no_such_method(method, claims)


LISTED_NAMES: Final = 50


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them, not all if they are many."""
    more = ", …" if len(names) > LISTED_NAMES else ""
    return ", ".join(names[:LISTED_NAMES]) + more if names else "none"


def those_known(name: str, known: Sequence[str]) -> str:
    """Return what is said about a model's name that no model has: the nearest, and all."""
    return f"{did_you_mean(name, known)} Models: {listed(known)}".lstrip()


def shortened(name: str) -> str:
    """Return what a client called something, quoted, and at most some 200 characters of it."""
    return repr(name[:200])


def rows(results: Sequence[Result]) -> list[Row]:
    """Return the rows of results without an error.

    Raises:
        ServingError: the first error; of several items its path says which.
    """
    found: list[Row] = []
    for index, result in enumerate(results):
        if isinstance(result, ServingError):
            raise result.at(f"[{index}]") if len(results) > 1 else result
        found.append(result)
    return found
