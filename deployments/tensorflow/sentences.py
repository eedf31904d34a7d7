"""Parts of the sentences in which TensorFlow's errors are told."""

from __future__ import annotations

from collections.abc import Iterable


def listed(names: Iterable[object], prefix: str = "") -> str:
    """Return names as a sentence needs them."""
    listed = ", ".join(map(str, names))
    return prefix + listed if listed else "nothing"


def first_line(exc: Exception) -> str:
    """Return the line that says what went wrong: graph errors begin with where it did."""
    where = ("Graph execution error", "Detected at node", "<stack traces", "  File ", "    ")
    lines = (line for line in str(getattr(exc, "message", exc)).splitlines() if line.strip())
    return next((line for line in lines if not line.startswith(where)), type(exc).__name__)
