"""HTTP's basic authentication, RFC 7617."""

from __future__ import annotations

import os
from hmac import compare_digest

from rayserve_app.codecs import base64
from rayserve_app.errors import ConfigurationError, DecodeError, InvalidRequest


class Unauthorized(InvalidRequest):
    """The request has no credentials, or others."""


class BasicAuth:
    """The one user who may call, or everybody."""

    def __init__(self, username: str | None, password_variable: str | None, *, path: str) -> None:
        """Read the password from the environment, so that it stands in no file.

        Args:
            password_variable: the environment variable's name; everybody may call if None.
            path: where the two stand in the YAML.
        Raises:
            ConfigurationError: the environment has no such variable, or an empty one.
        """
        self._credentials: list[bytes] = []
        if password_variable is None:
            return
        password = os.environ.get(password_variable)
        if not password:
            raise ConfigurationError(
                "No password",
                expected=f"one in the environment variable {password_variable!r}",
                path=f"{path}.password_variable",
                remedy="Set it in the replica's `runtime_env: {env_vars: ...}`, or for all of Ray",
            )
        credentials = f"{username}:{password}"
        self._credentials = [credentials.encode("utf-8", "surrogateescape")]
        if max(credentials) <= "\xff":
            # RFC 7617 leaves the charset open: curl sends UTF-8, `requests` latin-1.
            self._credentials.append(credentials.encode("latin-1"))

    @property
    def is_required(self) -> bool:
        return bool(self._credentials)

    def check(self, authorization: str | None) -> None:
        """Raise Unauthorized unless the header carries the user's credentials; how long that takes
        tells nothing about them."""
        if not self.is_required:
            return
        scheme, _, token = (authorization or "").strip().partition(" ")
        if scheme.lower() != "basic":
            raise Unauthorized("No credentials")
        try:
            given = base64.decode(token.strip())
        except DecodeError as exc:
            raise Unauthorized("Malformed credentials") from exc
        if not any(compare_digest(given, own) for own in self._credentials):
            raise Unauthorized("Wrong credentials")
