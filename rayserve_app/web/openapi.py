"""OpenAPI 3.1 documents: a fragment for each protocol that a server speaks, put together with what
every server answers, which lies beside this file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

import yaml

from rayserve_app.codecs import json

VERSION: Final = "3.1.0"

SERVER: Final = Path(__file__).with_name("openapi.yaml")

OF_INPUT: Final = "x-of-input"
"""In a fragment, what depends on a model's input: a body whose media types are those that the input
takes; or one of its media types, which is there if the input takes this other one."""

BINARY: Final = {"schema": {"type": "string", "format": "binary"}}


@lru_cache(maxsize=16)
def write_document(
    title: str,
    fragments: tuple[Path, ...],
    *,
    base_path: str,
    models: tuple[str, ...],
    version: str = "1",
    media_types: tuple[str, ...] | None = None,
    examples: bytes = b"{}",
) -> bytes:
    """Return the document of a server as JSON. The first call takes a tenth of a second.

    Args:
        examples: as JSON; they and the other arguments as for `create_document`.
    """
    document = create_document(
        title,
        fragments,
        base_path=base_path,
        models=models,
        version=version,
        media_types=media_types,
        examples=json.decode_object(examples),
    )
    return json.encode(document)


def create_document(
    title: str,
    fragments: Sequence[Path],
    *,
    base_path: str = "",
    models: Sequence[str],
    version: str = "1",
    media_types: Collection[str] | None = None,
    examples: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the document of a server.

    Args:
        fragments: those of the protocols, as YAML, in the order in which these claim paths: where
            two describe one operation, the first one's stands, and the bodies and answers of the
            others beside its own.
        base_path: where the paths begin.
        models: the names that `{model}` in a path may have.
        version: of what is served.
        media_types: those of the bodies that the model's input is read from; None for all.
        examples: by the name of a schema, a value that is true of the model.
    """
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {}
    for fragment in map(_read, (SERVER, *fragments)):
        schemas |= fragment.get("components", {}).get("schemas", {})
        for path, item in fragment["paths"].items():
            operations = paths.setdefault(path, {})
            for method, described in item.items():
                operation = _for_input(_for_models(deepcopy(described), models), media_types)
                if method in operations:
                    _add_contents(operations[method], operation)
                else:
                    operations[method] = operation
    for name, value in (examples or {}).items():
        schemas[name] = schemas[name] | {"examples": [value]}
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


def _for_input(operation: dict[str, Any], media_types: Collection[str] | None) -> dict[str, Any]:
    """Return the operation with those media types of its body that the model's input takes."""
    body = operation.get("requestBody", {"content": {}})
    is_of_input = body.pop(OF_INPUT, False)
    content: dict[str, Any] = {}
    for media_type, entry in body["content"].items():
        needed = entry.pop(OF_INPUT, media_type if is_of_input else None)
        if media_types is None or needed is None or needed in media_types:
            content[media_type] = entry
    if is_of_input:
        content |= {each: BINARY for each in media_types or () if each not in content}
    body["content"] = content
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
    if present is None or added is None:
        return
    choices = [*_choices(present)]
    choices += [each for each in _choices(added) if each not in choices]
    schema = {"anyOf": choices} if len(choices) > 1 else choices[0]
    contents[media_type] = {"schema": schema}


def _choices(schema: dict[str, Any]) -> list[Any]:
    """Return the schemas of which one has to hold."""
    found: list[Any] = schema["anyOf"] if list(schema) == ["anyOf"] else [schema]
    return found


@cache
def _read(fragment: Path) -> Any:
    return yaml.safe_load(fragment.read_text("utf-8"))
