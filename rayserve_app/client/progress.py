"""How far a long list is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], object]
"""Called with the items done and all items, in the caller's thread."""


def create_progress(wanted: bool | Progress, name: str) -> Progress:
    """Return what is told: the caller's own function, a line on stderr if that is a terminal, or
    nothing."""
    if callable(wanted):
        return wanted
    if wanted and sys.stderr.isatty():
        return Line(name)
    return lambda done, total: None


class Line:
    """One line on stderr, written over again."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, done: int, total: int) -> None:
        end = "\n" if done == total else ""
        sys.stderr.write(f"\r{self._name}: {done}/{total}{end}")
        sys.stderr.flush()
