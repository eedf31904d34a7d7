"""What a run found, as a table for people and as JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

WIDTH = 100
INDENT = "    "


class Bound(NamedTuple):
    """A bound, in the row's unit."""

    kind: Literal["at least", "at most"]
    value: float

    def is_met_by(self, measured: float) -> bool:
        return measured >= self.value if self.kind == "at least" else measured <= self.value


@dataclass(frozen=True)
class Row:
    """One measured value. The names of its details end in their unit: `p50_ms`, `ours_per_s`."""

    figure: str
    case: str
    measured: float
    unit: str
    target: Bound | None = None
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_reached(self) -> bool | None:
        """Whether the target is reached; None without a target."""
        return None if self.target is None else self.target.is_met_by(self.measured)


@dataclass(frozen=True)
class Report:
    """One run: the machine, what was asked for, what was found, which figures failed and why."""

    machine: Mapping[str, str]
    command: str
    rounds: int
    seconds: float
    rows: Sequence[Row]
    failures: Mapping[str, str]

    def to_json(self) -> str:
        """Render as JSON; what is not finite, a percentile without an answer, is null."""
        document = {
            "command": self.command,
            "machine": dict(self.machine),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "rows": [_row_values(row) for row in self.rows],
            "failures": dict(self.failures),
        }
        return json.dumps(document, indent=2, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """Render for a terminal: a header, one table, the failures."""
        header = [f"$ {self.command}", *(f"{key}: {value}" for key, value in self.machine.items())]
        header.append(f"rounds: {self.rounds}, seconds: {self.seconds:g}")
        failures = [f"{name} failed: {reason}" for name, reason in self.failures.items()]
        return "\n".join([*header, "", *_table(self.rows), *failures]) + "\n"


def _row_values(row: Row) -> dict[str, Any]:
    target = row.target
    return {
        "figure": row.figure,
        "case": row.case,
        "measured": _finite(row.measured),
        "unit": row.unit,
        "target": None if target is None else {"kind": target.kind, "value": target.value},
        "is_reached": row.is_reached,
        "details": {name: _finite(value) for name, value in row.details.items()},
    }


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _table(rows: Sequence[Row]) -> list[str]:
    """Return aligned columns, and below each row its details."""
    titles = ("figure", "case", "measured", "target", "reached")
    cells = [titles, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    for index, row in reversed([*enumerate(rows, start=1)]):
        details = "  ".join(f"{name}={number(value)}" for name, value in row.details.items())
        lines[index + 1 : index + 1] = textwrap.wrap(
            details, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT
        )
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    target = row.target
    return (
        row.figure,
        row.case,
        f"{number(row.measured)} {row.unit}",
        "" if target is None else f"{target.kind} {target.value:g}",
        {None: "", True: "yes", False: "no"}[row.is_reached],
    )


def number(value: float) -> str:
    """Return a number with three digits or more."""
    if not math.isfinite(value):
        return "none"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
