"""OpenAPI 3.1 documents: one fragment per protocol, beside this file, put together for what a
server speaks."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Final

import yaml

from rayserve_app.codecs import json

VERSION: Final = "3.1.0"


@lru_cache(maxsize=16)
def write_document(
    title: str,
    protocols: tuple[str, ...],
    *,
    base_path: str,
    models: tuple[str, ...],
    version: str = "1",
) -> bytes:
    """Return the document of a server as JSON. The first call takes a tenth of a second."""
    document = create_document(
        title, protocols, base_path=base_path, models=models, version=version
    )
    return json.encode(document)


def create_document(
    title: str,
    protocols: Sequence[str],
    *,
    base_path: str = "",
    models: Sequence[str],
    version: str = "1",
) -> dict[str, Any]:
    """Return the document of a server.

    Args:
        protocols: in the order in which they claim paths: where two describe one operation, the
            first one's stands, and the bodies and answers of the others beside its own.
        base_path: where the paths begin.
        models: the names that `{model}` in a path may have.
        version: of what is served.
    """
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {}
    for fragment in (_fragment("server"), *map(_fragment, protocols)):
        schemas |= fragment.get("components", {}).get("schemas", {})
        for path, item in fragment["paths"].items():
            operations = paths.setdefault(path, {})
            for method, operation in item.items():
                if method in operations:
                    _add_contents(operations[method], operation)
                else:
                    operations[method] = _for_models(deepcopy(operation), models)
    return {
        "openapi": VERSION,
        "info": {"title": title, "version": version},
        "servers": [{"url": base_path or "/"}],
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _for_models(operation: dict[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """Return the operation with the models' names as the choice of its `{model}`."""
    for parameter in operation.get("parameters", ()):
        if models and (parameter["in"], parameter["name"]) == ("path", "model"):
            parameter["schema"] = {"type": "string", "enum": list(models)}
    return operation


def _add_contents(operation: dict[str, Any], other: dict[str, Any]) -> None:
    """Add what another protocol takes and answers at the same path."""
    for media_type, content in other.get("requestBody", {}).get("content", {}).items():
        body = operation.setdefault("requestBody", {"content": {}})
        _add_schema(body["content"], media_type, content)
    for status, response in other.get("responses", {}).items():
        known = operation["responses"].setdefault(status, {"description": response["description"]})
        for media_type, content in response.get("content", {}).items():
            _add_schema(known.setdefault("content", {}), media_type, content)


def _add_schema(contents: dict[str, Any], media_type: str, content: dict[str, Any]) -> None:
    if media_type not in contents:
        contents[media_type] = deepcopy(content)
        return
    present, added = contents[media_type].get("schema"), content.get("schema")
    if present is None or added is None or present == added:
        return
    choices = present["anyOf"] if list(present) == ["anyOf"] else [present]
    contents[media_type] = {"schema": {"anyOf": [*choices, added]}}


@cache
def _fragment(protocol: str) -> Any:
    text = resources.files(__name__).joinpath(f"{protocol}.yaml").read_text("utf-8")
    return yaml.safe_load(text)
