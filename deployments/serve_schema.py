"""What Serve itself would refuse of a YAML, as one sentence with the key's path.

Serve's own command tells it in a traceback. `python -m deployments.serve_schema YAML` says it for
who does not import Ray.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from rayserve_app.errors import ConfigurationError
from rayserve_app.operations.serve_yaml import name_of, read_document
from rayserve_app.settings.section import shown


def check_values(document: Mapping[str, Any]) -> None:
    """Refuse what Serve would.

    Raises:
        ConfigurationError: the first fault found, with the key's path.
    """
    try:
        ServeDeploySchema.model_validate(document)
    except ValidationError as exc:
        fault = exc.errors(include_url=False, include_context=False)[0]
        raise ConfigurationError(
            " ".join(fault["msg"].removeprefix("Value error, ").split()).rstrip("."),
            got=None if fault["type"] == "missing" else shown(fault["input"]),
            path=_path(document, fault["loc"]),
        ) from exc
    except Exception as exc:  # of what a value names, which Serve imports
        raise ConfigurationError(
            "Serve cannot read this", got=f"{type(exc).__name__}: {exc}"
        ) from exc


def _path(document: Any, steps: Sequence[int | str]) -> str:
    """Return a path as our own errors write it; pydantic's has steps for the types of a union."""
    path, value = "", document
    for step in steps:
        if isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
            path += f"[{name_of(value, step)}]"
        elif isinstance(value, dict):
            value = value.get(step)
            path += f".{step}" if path else str(step)
    return path


if __name__ == "__main__":
    try:
        check_values(read_document(Path(sys.argv[1])))
    except ConfigurationError as error:
        sys.exit(str(error))
