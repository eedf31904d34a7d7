"""A report as one picture: what was measured against its targets. From the JSON document, so that
it can be drawn again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rayserve_app.bench.figure import Bound
from rayserve_app.errors import ConfigurationError, MissingDependency

WIDTH_IN, LINE_IN, MARGIN_IN = 13.0, 0.26, 2.5
REACHED, MISSED, LINE = "#3b7f5c", "#c0563a", "#333333"
FARTHEST: Final = 8.0
"""Times the target, or its part: a bar ends there."""


def draw_file(report_path: Path, picture_path: Path) -> None:
    """Draw the report in a JSON file.

    Raises:
        ConfigurationError: the file holds no report, or the picture's suffix is unknown.
        MissingDependency: Matplotlib is not installed.
    """
    try:
        document = json.loads(report_path.read_text())
        document["rows"], document["machine"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        expected, got = "what `bench --json` writes", str(report_path)
        raise ConfigurationError("Not a report of a benchmark", expected=expected, got=got) from exc
    draw(document, picture_path)


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Draw a bar per row that has a target: how many times better it is than that, and a line from
    its worst round to its best. The file's suffix is the format.

    Raises:
        ConfigurationError: the suffix is unknown.
        MissingDependency: Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        remedy = 'pip install "rayserve-app[plots]"'
        raise MissingDependency("Matplotlib is not installed", remedy=remedy) from exc
    rows = [row for row in document["rows"] if row["target"] is not None]
    figure = Figure((WIDTH_IN, LINE_IN * len(rows) + MARGIN_IN), layout="constrained")
    if path.suffix[1:] not in figure.canvas.get_supported_filetypes():
        expected = "a name that ends in .png, .svg or .pdf"
        raise ConfigurationError("No such picture", expected=expected, got=str(path))
    axes = figure.add_subplot()
    axes.set_title(f"{document['command']}\n{document['machine'].get('machine', '')}", fontsize=9)
    axes.set_xscale("log", base=2)
    axes.set_xlim(1 / FARTHEST, 2.5 * FARTHEST)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("times better than the target (right of 1: reached)")
    labels = [f"{row['figure']}: {row['case']}" for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color=LINE, linewidth=1)
    for place, row in enumerate(rows):
        bound = Bound(**row["target"])
        shown, *ends = (_shown(bound, value) for value in (row["measured"], *row["rounds"]))
        color = REACHED if row["is_reached"] else MISSED
        axes.barh(place, shown - 1, left=1, color=color, height=0.7)
        axes.hlines(place, min(ends), max(ends), color=LINE, linewidth=1)
        measured = "none" if row["measured"] is None else f"{row['measured']:.3g}"
        text = f"  {measured} {row['unit']} ({bound.kind} {bound.value:g})"
        axes.text(max(shown, 1, *ends), place, text, va="center", fontsize=8, color=color)
    figure.savefig(path)


def _shown(bound: Bound, measured: float | None) -> float:
    """Return how many times better than its target a value is, or where the picture ends."""
    margin = 0.0 if measured is None else bound.margin(measured)
    return min(max(margin, 1 / FARTHEST), FARTHEST)
