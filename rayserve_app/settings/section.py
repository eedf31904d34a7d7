"""The base of everything that the YAML declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from rayserve_app.errors import ConfigurationError

_SHOWN: Final = 200
"""Characters of a value that an error shows."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SectionT = TypeVar("SectionT", bound=Section)


def parse_section(section_type: type[SectionT], args: Mapping[str, Any], key: str) -> SectionT:
    """Validate what stands under `args` in the YAML, which is one key.

    Raises:
        ConfigurationError: the first fault found, with the key's path.
    """
    if set(args) != {key}:
        raise ConfigurationError(
            "The application's arguments", expected=f"`{key}`", got=shown(list(args)), path="args"
        )
    return read_section(section_type, args[key], f"args.{key}")


def read_section(section_type: type[SectionT], value: object, path: str) -> SectionT:
    """Validate one section.

    Args:
        path: the section's own, for errors.
    Raises:
        ConfigurationError: the first fault found, with the key's path.
    """
    try:
        return section_type.model_validate(value)
    except ValidationError as exc:
        raise _first_fault(section_type, exc, path) from exc
    except ConfigurationError as exc:  # a section within that was read by itself
        raise exc.at(path) from exc.__cause__


def _first_fault(
    section_type: type[BaseModel], exc: ValidationError, root: str
) -> ConfigurationError:
    fault = exc.errors(include_url=False)[0]
    keys = [str(part) for part in fault["loc"]]
    steps = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"])
    path = f"{root}{''.join(steps)}"
    if fault["type"] == "extra_forbidden":
        known = ", ".join(sorted(_fields_at(section_type, keys[:-1])))
        return ConfigurationError(
            f"Unknown key {shown(keys[-1])}", path=path, remedy=f"Known: {known}"
        )
    if fault["type"] == "missing":
        return ConfigurationError(f"Missing key {keys[-1]!r}", path=path)
    problem = fault["msg"].removeprefix("Value error, ")
    return ConfigurationError(problem, got=shown(fault["input"]), path=path)


def _fields_at(section_type: type[BaseModel], keys: list[str]) -> list[str]:
    """Return the known keys of the section that a path of keys leads to."""
    section = section_type
    for key in keys:
        if key not in section.model_fields:
            continue  # the key of a mapping of sections
        annotation = section.model_fields[key].annotation
        # An optional section is a union with None.
        kinds = [kind for kind in get_args(annotation) or (annotation,) if isinstance(kind, type)]
        sections = [kind for kind in kinds if issubclass(kind, BaseModel)]
        if not sections:
            return []
        section = sections[0]
    return list(section.model_fields)


def shown(value: object) -> str:
    """Return how an error shows a value of a YAML."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits than Python writes, or a circle
        return type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
