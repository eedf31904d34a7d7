"""What a figure is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, TypeAlias

from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load
from rayserve_app.bench.report import Row
from rayserve_app.bench.rounds import Effort

Measure: TypeAlias = Callable[[Instance, Effort], Awaitable[list[Row]]]


class Figure(NamedTuple):
    """One figure of the table, or a few that belong together."""

    name: str
    applications: tuple[str, ...]
    measure: Measure
    starts_itself: bool = False
    """It gets an instance of its own, which is not started."""
    gpu_applications: tuple[str, ...] = ()
    """What it needs as well where PyTorch finds a GPU."""


class MeasurementFailed(Exception):
    """What was measured did not work, so its figures would mean nothing."""


def require_no_errors(what: str, loads: Iterable[Load]) -> None:
    """Raise MeasurementFailed if a request was not answered 200."""
    if errors := sum(load.errors + load.unanswered for load in loads):
        raise MeasurementFailed(f"{what}: {errors} requests were not answered 200")
