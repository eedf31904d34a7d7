"""What a row tells of the loads behind it: values of each round, and their medians."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from rayserve_app.bench.load import Load


def summary(loads: Sequence[Load], prefix: str = "") -> dict[str, float]:
    """Return answers per second, the latency's percentiles in milliseconds, and how much of the
    99th of an open loop may be the load generator's own."""
    found = {
        f"{prefix}per_s": median(load.rate for load in loads),
        **medians((load.percentiles() for load in loads), prefix),
    }
    if any(load.lateness for load in loads):
        found[f"{prefix}late_p99_ms"] = median(load.late_p99_ms for load in loads)
    return found


def stages(loads: Sequence[Load], prefix: str = "server_") -> dict[str, float]:
    """Return milliseconds by stage of `Server-Timing`, those that every load has."""
    return medians((load.stages for load in loads), prefix, "_ms")


def rate_ratios(ours: Sequence[Load], theirs: Sequence[Load]) -> list[float]:
    """Return, for each round, our answers per second divided by theirs."""
    return [our.rate / their.rate for our, their in zip(ours, theirs, strict=True)]


def medians(
    rounds: Iterable[Mapping[str, float]], prefix: str = "", suffix: str = ""
) -> dict[str, float]:
    """Return the median over the rounds of each value that all of them have."""
    first, *rest = rounds
    names = [name for name in first if all(name in each for each in rest)]
    return {
        f"{prefix}{name}{suffix}": median(each[name] for each in (first, *rest)) for name in names
    }
