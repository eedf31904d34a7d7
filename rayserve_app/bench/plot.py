"""A report as one picture: what was measured against its targets, latency against the offered rate
of each saturation search, and the sizes of batches. From the JSON document, to be drawn again."""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rayserve_app.bench.batch_sizes import size_range, up_to_powers
from rayserve_app.errors import ConfigurationError, MissingDependency

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Document = Mapping[str, Any]

WIDTH_IN: Final = 13.0
LINE_IN: Final = 0.26
PANEL_IN: Final = 3.2
MARGIN_IN: Final = 1.4
COLUMNS: Final = 2
DPI: Final = 110

REACHED, MISSED, LIMIT, SERIES = "#3b7f5c", "#c0563a", "#333333", ("#2f6690", "#d98324", "#7a4f9a")
FARTHEST: Final = 8.0
"""Times the target, or its part: a bar ends there."""

TICKS: Final = (0.125, 0.25, 0.5, 1, 2, 4, 8)

TITLE_CHARACTERS: Final = 120

LEAST_SHARE, DARK_SHARE = 1, 60
"""Percent from which a share is written, and from which in white."""


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
        raise ConfigurationError(
            "No report of a benchmark", expected="what `bench --json` writes", got=str(report_path)
        ) from exc
    draw(document, picture_path)


def draw(document: Document, path: Path) -> None:
    """Draw a report to a file; its suffix is the format.

    Raises:
        ConfigurationError: the suffix is unknown.
        MissingDependency: Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise MissingDependency(
            "Matplotlib is not installed", remedy='pip install "rayserve-app[bench]"'
        ) from exc
    rows = document["rows"]
    bounded = [row for row in rows if row["target"] is not None]
    searches = [row for row in rows if row.get("saturation", {}).get("steps")]
    histograms = _histograms(rows)
    lines = math.ceil(len(searches) / COLUMNS)
    heights = [
        _height(bounded),
        *[PANEL_IN] * lines,
        *([_height(histograms)] if histograms else []),
    ]
    figure = Figure(figsize=(WIDTH_IN, sum(heights) + 1), layout="constrained", dpi=DPI)
    if path.suffix[1:] not in figure.canvas.get_supported_filetypes():
        raise ConfigurationError(
            "No such picture", expected="a name that ends in .png, .svg or .pdf", got=str(path)
        )
    figure.suptitle(_title(document), fontsize=9)
    grid = figure.add_gridspec(len(heights), COLUMNS, height_ratios=heights)
    _draw_targets(figure.add_subplot(grid[0, :]), bounded)
    for index, row in enumerate(searches):
        _draw_search(figure.add_subplot(grid[1 + index // COLUMNS, index % COLUMNS]), row)
    if histograms:
        _draw_batches(figure.add_subplot(grid[-1, :]), histograms)
    figure.savefig(path)


def _height(lines: Sized) -> float:
    return LINE_IN * max(2, len(lines)) + MARGIN_IN


def _title(document: Document) -> str:
    machine = document["machine"]
    run = f"{document['command']} - {document['rounds']} rounds of {document['seconds']:g} s"
    return "\n".join(
        [
            *textwrap.wrap(run, TITLE_CHARACTERS),
            machine.get("machine", ""),
            machine.get("time", ""),
        ]
    )


def _draw_targets(axes: Axes, rows: Sequence[Document]) -> None:
    """Draw a bar per row that has a target: how many times better it is than that, and a line from
    its worst round to its best."""
    axes.set_title("Measured against target")
    axes.set_xscale("log", base=2)
    least = min([0.5, *map(_margin, rows)])
    axes.set_xlim(max(least / 1.2, 1 / FARTHEST), 2.5 * FARTHEST)
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.set_xlabel("times better than the target (right of 1: reached)")
    axes.set_yticks(range(len(rows)), [f"{row['figure']}: {row['case']}" for row in rows])
    axes.tick_params(axis="y", labelsize=8)
    axes.invert_yaxis()
    for place, row in enumerate(rows):
        shown = _shown(row, "measured")
        color = REACHED if row["is_reached"] else MISSED
        axes.barh(place, shown - 1, left=1, color=color, height=0.7)
        ends = [_shown(row, name) for name in ("least", "most") if name in row]
        if ends:
            axes.hlines(place, min(ends), max(ends), color=LIMIT, linewidth=1)
        target = row["target"]
        color = LIMIT if row["is_reached"] else MISSED
        measured = "none" if row["measured"] is None else f"{row['measured']:.3g}"
        axes.annotate(
            f"{measured} {row['unit']} ({target['kind']} {target['value']:g})",
            (max(shown, 1, *ends), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=color,
        )
    axes.axvline(1, color=LIMIT, linewidth=1)


def _shown(row: Document, name: str) -> float:
    """Return the margin of one of a row's values, or where the picture ends."""
    return min(max(_margin(row, name), 1 / FARTHEST), FARTHEST)


def _margin(row: Document, name: str = "measured") -> float:
    """Return how many times better than its target a row is; under 1 if it misses it."""
    measured, target = row[name], row["target"]["value"]
    if measured is None:
        return 0.0
    better, worse = measured, target
    if row["target"]["kind"] == "at most":
        better, worse = worse, better
    return float(better / worse) if worse > 0 else math.inf


def _draw_search(axes: Axes, row: Document) -> None:
    """Draw latency against the offered rate, and the rate that was kept up with."""
    found = row["saturation"]
    offered = [step["offered_per_s"] for step in found["steps"]]
    for name, color in zip(("p50", "p90", "p99"), SERIES, strict=True):
        latencies = [
            math.nan if step[f"{name}_ms"] is None else step[f"{name}_ms"]
            for step in found["steps"]
        ]
        axes.plot(offered, latencies, marker="o", markersize=4, color=color, label=name)
    if found["per_s"]:
        label = f"kept up with {found['per_s']:.4g}/s"
        axes.axvline(found["per_s"], color=LIMIT, linestyle="--", linewidth=1, label=label)
    axes.set_title(f"{row['figure']}: {row['case']}", fontsize=9)
    axes.set_xlabel("offered, requests per second (open loop, Poisson)")
    axes.set_ylabel("latency, ms")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)


def _draw_batches(axes: Axes, histograms: Mapping[str, Counter[int]]) -> None:
    """Draw a line per load: the shares of its items that were in batches of each size."""
    most = max(max(batches) for batches in histograms.values())
    ends = [1 << power for power in range((most - 1).bit_length() + 1)]
    shares = []
    for batches in histograms.values():
        items = up_to_powers({size: size * count for size, count in batches.items()})
        shares.append([100 * items[end] / items.total() for end in ends])
    axes.set_title("Batch sizes (in brackets: the mean)")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(ends)), [size_range(end) for end in ends])
    axes.set_xlabel("items in the batch; numbers: % of all items that were in such batches")
    means = [sum(size * n for size, n in b.items()) / b.total() for b in histograms.values()]
    labels = [f"{name} ({mean:.3g})" for name, mean in zip(histograms, means, strict=True)]
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", labelsize=8)
    for line, of_one in enumerate(shares):
        for column, share in enumerate(of_one):
            if share >= LEAST_SHARE:
                color = "white" if share > DARK_SHARE else LIMIT
                axes.text(
                    column, line, f"{share:.0f}", ha="center", va="center", fontsize=8, color=color
                )


def _histograms(rows: Sequence[Document]) -> dict[str, Counter[int]]:
    """Return batches by size, of the loads that had any of more than one item, each once: several
    rows may compare the same load with others."""
    found: dict[str, Counter[int]] = {}
    for row in rows:
        for name, load in row.get("loads", {}).items():
            batches = Counter({int(size): count for size, count in load["batches"].items()})
            if max(batches, default=1) > 1 and batches not in found.values():
                found[f"{row['figure']}: {row['case']}, {name}"] = batches
    return found
