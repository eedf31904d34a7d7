"""What a run found, as a table for people and as JSON, from which plot.py draws."""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, Literal, NamedTuple

from rayserve_app.bench.batch_sizes import size_range, up_to_powers
from rayserve_app.bench.load import Load
from rayserve_app.bench.saturation import Saturation
from rayserve_app.bench.summary import medians
from rayserve_app.bench.usage import Usage

WIDTH = 100
INDENT = "    "

MOST_GENERATOR_CORES: Final = 0.8
"""A load generator that takes more of a core may be what is measured."""

MOST_PROCESSES: Final = 5
"""Of a figure, in the table; JSON has all."""


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
    loads: Mapping[str, Sequence[Load]] = field(default_factory=dict)
    """The loads behind the value, one per round, by what they were sent to. JSON and plot get
    their percentiles, stages and sizes of batches, the table the sizes. Not those of the load
    generator alone, which is to take a whole core."""
    saturation: Saturation | None = None
    rounds: Sequence[float] = ()
    """Of which the measured value is the median, where each round has one."""

    @classmethod
    def of_rounds(
        cls,
        figure: str,
        case: str,
        rounds: Sequence[float],
        unit: str,
        target: Bound | None,
        details: Mapping[str, float],
        loads: Mapping[str, Sequence[Load]] | None = None,
    ) -> Row:
        """Return the row whose value is the median over the rounds."""
        measured = median(rounds)
        return cls(figure, case, measured, unit, target, details, loads or {}, rounds=rounds)

    @property
    def spread(self) -> tuple[float, float] | None:
        """The least and the most of the rounds; None without several."""
        return (min(self.rounds), max(self.rounds)) if len(self.rounds) > 1 else None

    @property
    def generator_cores(self) -> float:
        """The share of a core that the load generator took, 0 if that is not known."""
        of_loads = [load.generator_cpu for loads in self.loads.values() for load in loads]
        return max([self.details.get("generator_cores", 0.0), *of_loads])

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
    usage: Mapping[str, Usage] = field(default_factory=dict)
    """What each figure took of the machine."""

    @property
    def foreign_cores(self) -> float | None:
        """How many cores were busy on average with what is no part of the run; None if unknown."""
        seconds = sum(usage.seconds for usage in self.usage.values())
        foreign = sum(usage.foreign_cpu_seconds for usage in self.usage.values())
        return foreign / seconds if seconds else None

    @property
    def warnings(self) -> list[str]:
        """Which rows may show the load generator instead of what it was sent to."""
        return [
            f"{row.figure}, {row.case}: the load generator took {row.generator_cores:.2f} of a core"
            for row in self.rows
            if row.generator_cores > MOST_GENERATOR_CORES
        ]

    def to_json(self) -> str:
        """Render as JSON; what is not finite, a percentile without an answer, is null."""
        document = {
            "command": self.command,
            "machine": dict(self.machine),
            "foreign_cores": None if self.foreign_cores is None else _finite(self.foreign_cores),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "rows": [_row_values(row) for row in self.rows],
            "warnings": self.warnings,
            "failures": dict(self.failures),
            "usage": {name: usage.to_document() for name, usage in self.usage.items()},
        }
        return json.dumps(document, indent=2, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """Render for a terminal: a header, the rows, warnings, failures, and processes."""
        header = [f"$ {self.command}", *(f"{key}: {value}" for key, value in self.machine.items())]
        if self.foreign_cores is not None:
            header.append(f"other load: {self.foreign_cores:.2f} cores, outside the benchmark")
        header.append(f"rounds: {self.rounds}, seconds: {self.seconds:g}")
        failures = [f"{name} failed: {reason}" for name, reason in self.failures.items()]
        warnings = [f"Warning: {warning}" for warning in self.warnings]
        lines = [*header, "", *_table(self.rows), *warnings, *failures, *_usage_table(self.usage)]
        return "\n".join(lines) + "\n"


def _row_values(row: Row) -> dict[str, Any]:
    target = row.target
    values: dict[str, Any] = {
        "figure": row.figure,
        "case": row.case,
        "measured": _finite(row.measured),
        **_spread_values(row),
        "unit": row.unit,
        "target": None if target is None else {"kind": target.kind, "value": target.value},
        "is_reached": row.is_reached,
        "details": {name: _finite(value) for name, value in row.details.items()},
    }
    if row.loads:
        values["loads"] = {name: _load_values(loads) for name, loads in row.loads.items()}
    if row.saturation is not None:
        values["saturation"] = {
            "per_s": _finite(row.saturation.per_s),
            "steps": [
                {"offered_per_s": _finite(rate), **_load_values([load])}
                for rate, load in sorted(row.saturation.steps.items())
            ],
        }
    return values


def _spread_values(row: Row) -> dict[str, float | None]:
    if row.spread is None:
        return {}
    least, most = row.spread
    return {"least": _finite(least), "most": _finite(most)}


def _load_values(rounds: Sequence[Load]) -> dict[str, Any]:
    """Return the medians over the rounds, and the counts of all."""
    percentiles = medians(load.percentiles() for load in rounds)
    stages = medians(load.stages for load in rounds)
    return {
        "answers": sum(len(load.latencies) for load in rounds),
        "errors": sum(load.errors for load in rounds),
        "unanswered": sum(load.unanswered for load in rounds),
        "per_s": _finite(median(load.rate for load in rounds)),
        **{name: _finite(value) for name, value in percentiles.items()},
        "stages_ms": {name: _finite(value) for name, value in stages.items()},
        "batches": {str(items): count for items, count in _batches(rounds).items()},
        "generator_cores": _finite(median(load.generator_cpu for load in rounds)),
        "late_p99_ms": _finite(median(load.late_p99_ms for load in rounds)),
    }


def _batches(rounds: Sequence[Load]) -> dict[int, int]:
    return dict(sorted(sum((load.batches for load in rounds), Counter[int]()).items()))


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _table(rows: Sequence[Row]) -> list[str]:
    """Return aligned columns, and below each row its details."""
    titles = ("figure", "case", "measured", "target", "reached")
    cells = [titles, *map(_cells, rows)]
    lines = _aligned(cells)
    for index, row in reversed([*enumerate(rows, start=1)]):
        details = "  ".join(f"{name}={number(value)}" for name, value in row.details.items())
        lines[index + 1 : index + 1] = [
            line
            for text in (details, *_batch_lines(row))
            for line in textwrap.wrap(text, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
        ]
    return lines


def _batch_lines(row: Row) -> Iterator[str]:
    """Tell how many batches of which sizes the loads' requests were in, if there were larger ones.
    Sizes stand together up to each power of two."""
    for name, loads in row.loads.items():
        batches = _batches(loads)
        if max(batches, default=1) > 1:
            parts = (f"{n}x{size_range(power)}" for power, n in up_to_powers(batches).items())
            yield f"batches of {name}, by items: {'  '.join(parts)}"


def _aligned(cells: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _cells(row: Row) -> tuple[str, ...]:
    target = row.target
    return (
        row.figure,
        row.case,
        f"{number(row.measured)} {row.unit}{_spread(row)}",
        "" if target is None else f"{target.kind} {target.value:g}",
        {None: "", True: "yes", False: "no"}[row.is_reached],
    )


def _spread(row: Row) -> str:
    return "" if row.spread is None else " ({}-{})".format(*map(number, row.spread))


def _usage_table(usage: Mapping[str, Usage]) -> list[str]:
    """Return what took most of the machine during each figure."""
    cells = [("processes during", "", "CPU s", "peak MB", "above start")]
    for figure, of_one in usage.items():
        cells.append((figure, "", f"{of_one.seconds:.1f} s", "", ""))
        cells += [
            (
                "",
                each.title,
                f"{each.cpu_seconds:.1f}",
                f"{each.peak_mb:.0f}",
                f"{each.above_start_mb:.0f}",
            )
            for each in of_one.largest(MOST_PROCESSES)
        ]
        cells.append(("", "outside", f"{of_one.foreign_cpu_seconds:.1f}", "", ""))
    return ["", *_aligned(cells)] if usage else []


def number(value: float) -> str:
    """Return a number with three digits or more."""
    if not math.isfinite(value):
        return "none"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
