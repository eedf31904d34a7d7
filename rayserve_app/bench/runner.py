"""One run: build the bench's models, start Serve with what the figures need, measure, report."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rayserve_app.bench import cuda, loop, networks, plot
from rayserve_app.bench.applications import build_config
from rayserve_app.bench.figures import FIGURES
from rayserve_app.bench.figures.figure import Figure
from rayserve_app.bench.instance import Instance, NotReady, free_port
from rayserve_app.bench.machine import describe_machine
from rayserve_app.bench.report import Report, Row
from rayserve_app.bench.rounds import Effort
from rayserve_app.bench.usage import Usage, UsageMeter
from rayserve_app.errors import ConfigurationError, MissingDependency
from rayserve_app.operations.server.settings import file_beside


@dataclass
class Findings:
    """What was found so far."""

    rows: list[Row] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    usage: dict[str, Usage] = field(default_factory=dict)


@dataclass(frozen=True)
class Outputs:
    """Where the report is written besides standard output."""

    json_path: Path | None = None
    plot_path: Path | None = None


def bench(
    names: Sequence[str],
    effort: Effort,
    config_path: Path,
    outputs: Outputs,
    known: Mapping[str, Figure] = FIGURES,
) -> int:
    """Measure and print the figures of these names, all of them if none is given.

    Args:
        config_path: the Serve YAML that declares the models that are measured.
        known: the figures to choose from.
    Returns: the exit status: 1 if a figure could not be measured, whatever the others found.
    """
    figures = choose(names, known)
    machine = describe_machine()
    findings = Findings()
    try:
        with tempfile.TemporaryDirectory(prefix="rayserve-bench-") as folder:
            networks.build(_applications(figures), Path(folder))
            for group in _by_instance(figures):
                _run(group, effort, config_path, Path(folder), findings)
    except NotReady as error:
        _say(str(error))
        return 1
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    report = Report(
        machine,
        command,
        effort.rounds,
        effort.seconds,
        findings.rows,
        findings.failures,
        findings.usage,
    )
    print(report.to_text(), end="")
    _write(report, outputs)
    return 1 if findings.failures else 0


def _write(report: Report, outputs: Outputs) -> None:
    document = report.to_json()
    if outputs.json_path is not None:
        outputs.json_path.write_text(document)
    if outputs.plot_path is not None:
        try:
            plot.draw(json.loads(document), outputs.plot_path)
        except MissingDependency as error:  # the figures are what was asked for
            _say(f"No plot: {error}")


def choose(names: Sequence[str], known: Mapping[str, Figure] = FIGURES) -> list[Figure]:
    """Return the figures of these names, or all, in the order in which they are measured.

    Raises:
        ConfigurationError: no such figure.
    """
    for name in names:
        if name not in known:
            raise ConfigurationError("No such figure", expected=" or ".join(known), got=repr(name))
    return [figure for name, figure in known.items() if not names or name in names]


def _applications(figures: Sequence[Figure]) -> set[str]:
    """Return the names of what these figures need on this machine."""
    names = {name for figure in figures for name in figure.applications}
    on_gpu = {name for figure in figures for name in figure.gpu_applications}
    return names | on_gpu if on_gpu and cuda.device_name() else names


def _by_instance(figures: Sequence[Figure]) -> list[list[Figure]]:
    """Return each that starts its instance itself alone, and those that share a running one."""
    alone = [[figure] for figure in figures if figure.starts_itself]
    shared = [figure for figure in figures if not figure.starts_itself]
    return [*alone, shared] if shared else alone


def _run(
    figures: Sequence[Figure], effort: Effort, config_path: Path, models: Path, findings: Findings
) -> None:
    """Measure figures with one instance, which runs unless they start it."""
    names = _applications(figures)
    config = build_config(names, config_path, free_port(), models)
    instance = Instance(config, file_beside(config_path))
    if figures[0].starts_itself:
        loop.run(measure(figures, instance, effort, findings))
        return
    _say(f"Starting Serve with {', '.join(sorted(names))} ...")
    with instance:
        os.setpriority(os.PRIO_PROCESS, 0, instance.niceness())
        loop.run(measure(figures, instance, effort, findings))


async def measure(
    figures: Sequence[Figure], instance: Instance, effort: Effort, findings: Findings
) -> None:
    """Find the rows of all figures, what they took, and why some have none."""
    for figure in figures:
        _say(f"Measuring {figure.name} ...")
        with UsageMeter() as meter:
            try:
                findings.rows += await figure.measure(instance, effort)
            except Exception as error:  # one that fails takes no other with it
                traceback.print_exc()
                findings.failures[figure.name] = f"{type(error).__name__}: {error}"
        if meter.usage is not None:
            findings.usage[figure.name] = meter.usage


def _say(line: str) -> None:
    """Tell what goes on beside the report, which alone is on standard output."""
    print(line, file=sys.stderr, flush=True)
