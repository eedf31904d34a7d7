"""The names under which a multi-model endpoint's platform calls one model.

Source: Amazon SageMaker developer guide, "Contract for custom containers to serve multiple models":
`model_name` is opaque, a hash that the platform makes. Nothing that a client names is ever fetched
or loaded: a URL is compared with what the YAML declares, and that is all.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from rayserve_app.codecs import json
from rayserve_app.errors import DecodeError, InvalidRequest, ModelNotFound, ServingError
from rayserve_app.inference.model import Model
from rayserve_app.types import Buffer
from rayserve_app.web.messages import did_you_mean

MAX_NAMES: Final = 1000
"""Names of one replica beside the model's own."""

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class AlreadyLoaded(InvalidRequest):
    """A model of that name is there."""


class KeepsLoaded(InvalidRequest):
    """The model cannot be unloaded by its own name."""


class TooManyNames(ServingError):
    """The model has all the names that it may have."""


class ModelNames:
    """One model's own name, the URL that stands for it, and the names that it was given."""

    def __init__(self, model: Model) -> None:
        self._own = model.name
        # Of the settings only a model that lies in files has a path.
        path: str = getattr(model.settings, "path", model.name)
        self.url = shown(path)
        """Where the model came from, without what may be secret in a URL."""
        self._urls = {path, self.url, model.name}
        self._given: dict[str, None] = {}

    @property
    def known(self) -> list[str]:
        """All names, the model's own first."""
        return [self._own, *self._given]

    def check(self, name: str) -> None:
        """Raise ModelNotFound unless the model goes by this name."""
        if name != self._own and name not in self._given:
            known = ", ".join(map(repr, self.known[:10]))
            raise ModelNotFound(
                "No such model is loaded",
                expected=known,
                got=repr(name[:200]),
                remedy=did_you_mean(name, self.known) or None,
            )

    def add(self, name: str, url: str) -> None:
        """Let the model go by a further name.

        Raises:
            DecodeError: what cannot stand in a path as one segment.
            AlreadyLoaded: it does already.
            ModelNotFound: the URL is not this model's.
            TooManyNames: MAX_NAMES are given.
        """
        if not NAME.fullmatch(name):
            raise DecodeError(
                "Not a model's name",
                expected="1 to 128 letters, digits, `.`, `_` or `-`",
                got=repr(name[:200]),
                path="model_name",
            )
        if name == self._own or name in self._given:
            raise AlreadyLoaded(f"Model {name!r} is already loaded")
        if url not in self._urls:
            raise ModelNotFound(
                "No such model: nothing that a client names is fetched",
                expected=f"{self.url!r} or {self._own!r}",
                got=repr(url[:200]),
                path="url",
            )
        if len(self._given) == MAX_NAMES:
            raise TooManyNames(f"Model {self._own!r} has {MAX_NAMES} names; unload one of them")
        self._given[name] = None

    def remove(self, name: str) -> None:
        """Take back a name that was given.

        Raises:
            KeepsLoaded: it is the model's own. To say 200 would be untrue: the model stays in
                memory, and is listed still.
        """
        if name == self._own:
            raise KeepsLoaded(
                f"Model {name!r} is declared in the server's YAML and stays loaded",
                remedy="Remove its application to unload it.",
            )
        del self._given[name]


def read_registration(body: Buffer) -> tuple[str, str]:
    """Return name and URL of a `POST /models`.

    Raises:
        DecodeError: not an object with both as strings.
    """
    fields = json.decode_object(body)
    for key in ("model_name", "url"):
        if not isinstance(fields.get(key), str):
            raise DecodeError(
                "wrong type", expected="a string", got=type(fields.get(key)).__name__, path=key
            )
    return fields["model_name"], fields["url"]


def targets(name: str, path: str | None) -> set[str]:
    """Return what a `TargetModel` may call a model: its name, what a client takes for its
    archive, and, of one that lies somewhere, the last part of where that is."""
    found = {name, f"{name}.tar.gz"}
    return found | {path, shown(path), PurePosixPath(shown(path)).name} if path else found


def check_target(model: Model, target: str | None) -> None:
    """Raise InvalidRequest if a request names another model than the one that was asked: it must
    not answer in its place."""
    known = targets(model.name, getattr(model.settings, "path", None))
    if target and target.removeprefix("/") not in known:
        raise InvalidRequest(
            "No such TargetModel here",
            expected=f"{model.name!r} or {f'{model.name}.tar.gz'!r}",
            got=repr(target[:200]),
            remedy=did_you_mean(target, known) or None,
        )


def shown(path: str) -> str:
    """Return a path without the password or the signature that a URL may hold."""
    if "://" not in path:
        return path
    url = urlsplit(path)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
