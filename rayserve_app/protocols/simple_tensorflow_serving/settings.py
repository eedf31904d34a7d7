"""What a model's YAML may say of simple_tensorflow_serving's API."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from rayserve_app.settings.section import Section


class SimpleTensorFlowServingSettings(Section):
    """simple_tensorflow_serving."""

    username: str | None = None
    password_variable: str | None = None
    """The environment variable that holds the password. With both, basic auth is asked for."""
    autoconvert_base64: bool = False
    """`--enable_b64_autoconvert`: `{"b64": ...}` anywhere in the data is decoded."""

    @model_validator(mode="after")
    def _names_user_and_password(self) -> Self:
        if bool(self.username) != bool(self.password_variable):
            raise ValueError("'username' and 'password_variable' go together")
        if ":" in (self.username or ""):
            raise ValueError("'username' ends at a colon in basic auth (RFC 7617)")
        return self
