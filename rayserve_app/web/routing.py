"""From a method and a path to what answers it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Generic, TypeAlias, TypeVar

T = TypeVar("T")

NOTHING: Final[Mapping[str, str]] = {}


Claims: TypeAlias = Mapping[str, list[tuple[T, Mapping[str, str]]]]
"""By method those who claim a path, in their order, with the values of the path's parameters."""


class Router(Generic[T]):
    """Routes by exact path, or by a pattern in which `{name}` stands for a part of one segment."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, list[tuple[T, Mapping[str, str]]]]] = {}
        # By the number of slashes, of which a pattern has as many as what it matches.
        self._patterns: dict[int, dict[str, tuple[re.Pattern[str], dict[str, list[T]]]]] = {}

    def add(self, method: str, path: str, endpoint: T) -> None:
        """Add a claim; who claims the same path earlier comes first."""
        if "{" not in path:
            self._exact.setdefault(path, {}).setdefault(method, []).append((endpoint, NOTHING))
            return
        patterns = self._patterns.setdefault(path.count("/"), {})
        _, claims = patterns.setdefault(path, (compile_path(path), {}))
        claims.setdefault(method, []).append(endpoint)

    def find(self, path: str) -> Claims[T]:
        """Return who claims a path: nobody if there is no such path. An exact path hides
        patterns."""
        exact = self._exact.get(path)
        if exact is not None:
            return exact
        found: dict[str, list[tuple[T, Mapping[str, str]]]] = {}
        for pattern, claims in self._patterns.get(path.count("/"), {}).values():
            if match := pattern.fullmatch(path):
                for method, endpoints in claims.items():
                    parameters = match.groupdict()
                    found.setdefault(method, []).extend((each, parameters) for each in endpoints)
        return found

    @property
    def operations(self) -> list[tuple[str, str]]:
        """All methods and paths, in the order of the paths."""
        claimed = {path: list(claims) for path, claims in self._exact.items()}
        for patterns in self._patterns.values():
            claimed |= {path: list(claims) for path, (_, claims) in patterns.items()}
        return [(method, path) for path in sorted(claimed) for method in claimed[path]]

    @property
    def paths(self) -> list[str]:
        """All paths and patterns, in order."""
        return sorted({path for _, path in self.operations})


def compile_path(path: str) -> re.Pattern[str]:
    """Return the regular expression of a path with `{name}` in it."""
    parts = re.split(r"\{(\w+)\}", path)
    literals, names = parts[::2], parts[1::2]
    pattern = re.escape(literals[0])
    for name, literal in zip(names, literals[1:], strict=True):
        pattern += f"(?P<{name}>[^/]+?){re.escape(literal)}"
    return re.compile(pattern)
