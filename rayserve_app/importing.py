"""Import strings: `package.module:attribute`."""

from __future__ import annotations

import importlib
from typing import Any

from rayserve_app.errors import ConfigurationError


def import_from_string(import_string: str, *, path: str = "") -> Any:
    """Return the attribute that `package.module:attribute` names.

    Raises:
        ConfigurationError: the string has another form, or the module or attribute is missing. An
            error raised by the module itself while it is imported passes through.
    """
    module_name, _, attributes = import_string.partition(":")
    if not module_name or module_name.startswith(".") or not attributes:
        raise ConfigurationError(
            "Not an import string",
            expected="`package.module:attribute`",
            got=repr(import_string),
            path=path,
        )
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        # A missing module of our string, not one that it imports in turn.
        if exc.name is None or not (module_name + ".").startswith(exc.name + "."):
            raise
        raise ConfigurationError(
            f"No module named {exc.name!r}", got=repr(import_string), path=path
        ) from exc
    for name in attributes.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as exc:
            raise ConfigurationError(
                f"Module {module_name!r} has no attribute {attributes!r}", path=path
            ) from exc
    return found
