"""What is measured, one module per figure: `figures/slow_neighbour.py` is `bench slow-neighbour`.

A later figure is one file here, found by its name:

    async def measure(instance: Instance, effort: Effort) -> list[Row]:
        target = Target.post(instance.url("/digits/invocations"), b"...", "image/png")
        loads = await closed_loops(
            {"digits": target}, rounds=effort.rounds, connections=16, seconds=effort.seconds
        )
        rates = [load.rate for load in loads["digits"]]
        return [Row("16 connections", rates, "/s", at_least(1000), loads)]

    FIGURE = Figure(("digits",), measure)
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from rayserve_app.bench.figure import Figure


def find_figures() -> dict[str, Figure]:
    """Return the figures of this package's modules, by name."""
    names = sorted(module.name for module in iter_modules(__path__))
    return {name.replace("_", "-"): import_module(f"{__name__}.{name}").FIGURE for name in names}
