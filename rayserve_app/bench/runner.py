"""One run: build the bench's models, start Serve with what the figures need, measure, report."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from rayserve_app.bench import loop, networks
from rayserve_app.bench.applications import build_config
from rayserve_app.bench.figures import FIGURES
from rayserve_app.bench.figures.figure import Figure
from rayserve_app.bench.instance import Instance, NotReady, free_port
from rayserve_app.bench.machine import describe_machine
from rayserve_app.bench.report import Report, Row
from rayserve_app.bench.rounds import Effort
from rayserve_app.errors import ConfigurationError
from rayserve_app.server.settings import ENVIRONMENT_FILE_NAME


def bench(
    names: Sequence[str],
    effort: Effort,
    config_path: Path,
    json_path: Path | None,
    known: Mapping[str, Figure] = FIGURES,
) -> int:
    """Measure and print the figures of these names, all of them if none is given.

    Args:
        config_path: the Serve YAML that declares the models that are measured.
        json_path: where the report is written as JSON as well.
        known: the figures to choose from.
    Returns: the exit status: 1 if a figure could not be measured, whatever the others found.
    """
    figures = choose(names, known)
    machine = describe_machine()
    rows: list[Row] = []
    failures: dict[str, str] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="rayserve-bench-") as folder:
            networks.build({name for each in figures for name in each.applications}, Path(folder))
            for group in _by_instance(figures):
                found, failed = _run(group, effort, config_path, Path(folder))
                rows += found
                failures |= failed
    except NotReady as error:
        _say(str(error))
        return 1
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    report = Report(machine, command, effort.rounds, effort.seconds, rows, failures)
    print(report.to_text(), end="")
    if json_path is not None:
        json_path.write_text(report.to_json())
    return 1 if failures else 0


def choose(names: Sequence[str], known: Mapping[str, Figure] = FIGURES) -> list[Figure]:
    """Return the figures of these names, or all, in the order in which they are measured.

    Raises:
        ConfigurationError: no such figure.
    """
    for name in names:
        if name not in known:
            raise ConfigurationError("No such figure", expected=" or ".join(known), got=repr(name))
    return [figure for name, figure in known.items() if not names or name in names]


def _by_instance(figures: Sequence[Figure]) -> list[list[Figure]]:
    """Part those that start instances themselves from those that share a running one."""
    first = [figure for figure in figures if figure.starts_itself]
    second = [figure for figure in figures if not figure.starts_itself]
    return [group for group in (first, second) if group]


def _run(
    figures: Sequence[Figure], effort: Effort, config_path: Path, models: Path
) -> tuple[list[Row], dict[str, str]]:
    """Measure figures with one instance, which runs unless they start it."""
    names = {name for figure in figures for name in figure.applications}
    config = build_config(names, config_path, free_port(), models)
    instance = Instance(config, config_path.with_name(ENVIRONMENT_FILE_NAME))
    if figures[0].starts_itself:
        return loop.run(measure(figures, instance, effort))
    _say(f"Starting Serve with {', '.join(sorted(names))} ...")
    with instance:
        os.setpriority(os.PRIO_PROCESS, 0, instance.niceness())
        return loop.run(measure(figures, instance, effort))


async def measure(
    figures: Sequence[Figure], instance: Instance, effort: Effort
) -> tuple[list[Row], dict[str, str]]:
    """Return the rows of all figures, and why some have none."""
    rows: list[Row] = []
    failures: dict[str, str] = {}
    for figure in figures:
        _say(f"Measuring {figure.name} ...")
        try:
            rows += await figure.measure(instance, effort)
        except Exception as error:  # one that fails takes no other with it
            traceback.print_exc()
            failures[figure.name] = f"{type(error).__name__}: {error}"
    return rows, failures


def _say(line: str) -> None:
    """Tell what goes on beside the report, which alone is on standard output."""
    print(line, file=sys.stderr, flush=True)
