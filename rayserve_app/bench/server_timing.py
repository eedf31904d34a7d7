"""Reads the header `Server-Timing` (W3C Server Timing, section 3): a list of metrics.

predict;dur=50.1;desc="8 items", encode;dur=0.2
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from statistics import median
from typing import Final, NamedTuple

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_PARAMETER: Final = re.compile(rf"\s*;\s*({_TOKEN})\s*=\s*({_TOKEN}|{_QUOTED})")
_METRIC: Final = re.compile(rf"({_TOKEN})((?:\s*;\s*{_TOKEN}\s*=\s*(?:{_TOKEN}|{_QUOTED}))*)")
_ITEMS: Final = re.compile(r"(\d+) items?")


class Metric(NamedTuple):
    """What a server tells of one stage."""

    name: str
    duration_ms: float
    description: str


def parse(value: str) -> Iterator[Metric]:
    """Read the header's metrics; what is absent of one is 0 or empty, other parameters are
    ignored, as the specification says."""
    for metric in _METRIC.finditer(value):
        parameters = {name.lower(): text for name, text in _PARAMETER.findall(metric[2])}
        description = parameters.get("desc", "")
        if description.startswith('"'):
            description = re.sub(r"\\(.)", r"\1", description[1:-1])
        yield Metric(metric[1], float(parameters.get("dur", 0)), description)


def stages(value: str) -> dict[str, float]:
    """Return milliseconds by stage."""
    return {metric.name: metric.duration_ms for metric in parse(value)}


def batch_items(value: str) -> int:
    """Return how many items were in the request's batch; 0 if the header does not tell."""
    for metric in parse(value):
        if metric.name == "predict" and (match := _ITEMS.fullmatch(metric.description)):
            return int(match[1])
    return 0


def median_stages(values: Iterable[str]) -> dict[str, float]:
    """Return the median over answers of each stage, in milliseconds."""
    times: dict[str, list[float]] = {}
    for value in values:
        for name, duration_ms in stages(value).items():
            times.setdefault(name, []).append(duration_ms)
    return {name: median(of_one) for name, of_one in times.items()}


def count_batches(values: Iterable[str], share: float = 1.0) -> Counter[int]:
    """Estimate from answers to requests of one item each how many batches there were of each size:
    a batch of eight is told by eight answers.

    Args:
        share: which share of all answers these are.
    """
    answers = Counter(filter(None, map(batch_items, values)))
    return Counter(
        {items: max(1, round(n / items / share)) for items, n in sorted(answers.items())}
    )
