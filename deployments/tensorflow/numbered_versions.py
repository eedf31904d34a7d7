"""Versions in numbered directories: `path/1`, `path/2`, the highest number being the newest.

Source: TensorFlow Serving, file_system_storage_path_source.cc: a directory is a version if its name
is a number; leading zeros do not count; the newest is served unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator

from rayserve_app.errors import LoadError


def _check(choice: Any) -> Any:
    if choice in ("latest", "all"):
        return choice
    is_list = isinstance(choice, list | tuple) and bool(choice)
    if not is_list or any(type(number) is not int or number < 0 for number in choice):
        raise ValueError("expected 'latest', 'all', or a list of numbers")
    return tuple(choice)


# The types of a union would each have their say in an error.
Choice: TypeAlias = Annotated[Literal["latest", "all"] | tuple[int, ...], BeforeValidator(_check)]


def find(path: Path) -> dict[int, Path]:
    """Return the numbered directories below a directory, the newest first."""
    found = {
        int(entry.name): entry
        for entry in sorted(path.iterdir())
        if entry.name.isascii() and entry.name.isdecimal() and entry.is_dir()
    }
    return dict(sorted(found.items(), reverse=True))


def choose(found: Mapping[int, Path], choice: Choice) -> dict[str, Path]:
    """Return the chosen versions by name, the newest first.

    Raises:
        LoadError: a version is not among those found.
    """
    wanted: Sequence[int]
    if choice == "latest":
        wanted = list(found)[:1]
    elif choice == "all":
        wanted = list(found)
    else:
        wanted = sorted(set(choice), reverse=True)
    if missing := [number for number in wanted if number not in found]:
        raise LoadError(
            "There is no such version",
            expected=f"one of {', '.join(map(str, found))}",
            got=str(missing[0]),
            path="versions",
        )
    return {str(number): found[number] for number in wanted}
