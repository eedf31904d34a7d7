"""One run: build the bench's models, start Serve with what the figures need, measure, report."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path

from rayserve_app.bench import networks, plot
from rayserve_app.bench.applications import build_config
from rayserve_app.bench.figure import Effort, Figure
from rayserve_app.bench.instance import Instance, NotReady, free_port
from rayserve_app.bench.report import Report, describe_machine
from rayserve_app.errors import ConfigurationError, MissingDependency
from rayserve_app.operations.server.settings import file_beside


def bench(
    known: Mapping[str, Figure],
    names: Sequence[str],
    effort: Effort,
    config_path: Path,
    *,
    json_path: Path | None = None,
    plot_path: Path | None = None,
) -> int:
    """Measure and print the figures of these names, all of them if none is given.

    Args:
        config_path: the Serve YAML that declares the models that are measured.
        json_path, plot_path: where the report is written besides standard output.
    Returns: the exit status: 1 if a figure could not be measured, whatever the others found.
    """
    figures = choose(names, known)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    report = Report(describe_machine(), command, effort)
    try:
        with tempfile.TemporaryDirectory(prefix="rayserve-bench-") as folder:
            networks.build(_applications(figures), Path(folder))
            for group in _by_instance(figures):
                _run(group, config_path, Path(folder), report)
    except NotReady as error:
        _say(str(error))
        return 1
    print(report.to_text(), end="")
    if json_path is not None:
        json_path.write_text(report.to_json())
    if plot_path is not None:
        try:
            plot.draw(json.loads(report.to_json()), plot_path)
        except MissingDependency as error:  # the figures are what was asked for
            _say(f"No plot: {error}")
    return 1 if report.failures else 0


def choose(names: Sequence[str], known: Mapping[str, Figure]) -> dict[str, Figure]:
    """Return the figures of these names, or all, in the order in which they are measured.

    Raises:
        ConfigurationError: no such figure.
    """
    for name in names:
        if name not in known:
            raise ConfigurationError("No such figure", expected=" or ".join(known), got=repr(name))
    return {name: figure for name, figure in known.items() if not names or name in names}


def _applications(figures: Mapping[str, Figure]) -> set[str]:
    return {name for figure in figures.values() for name in figure.applications}


def _by_instance(figures: Mapping[str, Figure]) -> list[dict[str, Figure]]:
    """Return each that starts its instance itself alone, and those that share a running one."""
    alone = [{name: figure} for name, figure in figures.items() if figure.starts_itself]
    shared = {name: figure for name, figure in figures.items() if not figure.starts_itself}
    return [*alone, shared] if shared else alone


def _run(figures: Mapping[str, Figure], config_path: Path, models: Path, report: Report) -> None:
    """Measure figures with one instance, which runs unless they start it."""
    names = _applications(figures)
    config = build_config(names, config_path, free_port(), models)
    instance = Instance(config, file_beside(config_path))
    if any(figure.starts_itself for figure in figures.values()):
        run(measure(figures, instance, report))
        return
    _say(f"Starting Serve with {', '.join(sorted(names))} ...")
    with instance.running():
        os.setpriority(os.PRIO_PROCESS, 0, instance.niceness())
        run(measure(figures, instance, report))


async def measure(figures: Mapping[str, Figure], instance: Instance, report: Report) -> None:
    """Find the rows of all figures, and why some have none."""
    for name, figure in figures.items():
        _say(f"Measuring {name} ...")
        try:
            rows = await figure.measure(instance, report.effort)
            report.rows += [(name, row) for row in rows]
        except Exception as error:  # one that fails takes no other with it
            traceback.print_exc()
            report.failures[name] = f"{type(error).__name__}: {error}"


def run(main: Coroutine[None, None, None]) -> None:
    """Run a coroutine to its end in the loop that the other side has: uvloop's, if installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        asyncio.run(main)
        return
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main)


def _say(line: str) -> None:
    """Tell what goes on beside the report, which alone is on standard output."""
    print(line, file=sys.stderr, flush=True)
