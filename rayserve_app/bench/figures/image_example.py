"""Requests per second of the image-size example: the image as the body, against the least that a
user writes by hand, and in base64 JSON, against the body alone.

Both servers open the same image with Pillow and answer the same JSON, from replicas of one Serve
instance, through its HAProxy. One closed loop takes `Effort.seconds` where a bound is set on
requests per second of many callers, else half of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from rayserve_app.bench import pictures
from rayserve_app.bench.envelopes import base64_json, raw_body
from rayserve_app.bench.figure import (
    Effort,
    Figure,
    MeasurementFailed,
    Row,
    at_least,
    closed_loops,
    compare,
)
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Load, Target, fetch

MODEL: Final = "image-example"
CONNECTIONS: Final = (1, 16, 64)
CROWD: Final = 16
"""The connections at which the bounds of many callers hold."""

OF_MINIMAL: Final = {1: at_least(0.8), CROWD: at_least(0.9)}
"""By connections."""

OF_RAW: Final = {(pictures.JPEG, CROWD): at_least(0.8)}
"""Of base64 JSON, by image and connections."""

OURS, MINIMAL, PACKED = "ours", "minimal", "base64 JSON"


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    url = instance.url(f"/{MODEL}")
    rows: list[Row] = []
    for image, (body, media_type) in pictures.both().items():
        targets = {
            OURS: raw_body(body, media_type).target(url),
            MINIMAL: Target.post(instance.url("/minimal"), body, media_type),
            PACKED: base64_json(body).target(url),
        }
        await _check_same_answer(image, targets)
        for connections in CONNECTIONS:
            seconds = effort.seconds if connections == CROWD else effort.seconds / 2
            loads = await closed_loops(
                targets, rounds=effort.rounds, connections=connections, seconds=seconds
            )
            rows += size_rows(image, connections, loads)
    return rows


def size_rows(image: str, connections: int, loads: Mapping[str, Sequence[Load]]) -> list[Row]:
    """Return the rows of the raw body against the minimal ingress, and of base64 JSON against the
    raw body."""
    raw = {OURS: loads[OURS], MINIMAL: loads[MINIMAL]}
    packed = {PACKED: loads[PACKED], OURS: loads[OURS]}
    at, of_raw = f"c={connections}", OF_RAW.get((image, connections))
    return [
        compare(f"{image}, {at}", "x minimal", raw, OF_MINIMAL.get(connections)),
        compare(f"{image} as {PACKED}, {at}", "x raw", packed, of_raw),
    ]


async def _check_same_answer(image: str, targets: Mapping[str, Target]) -> None:
    values = [json.loads((await fetch(target)).body) for target in targets.values()]
    if any(value != values[0] for value in values):
        raise MeasurementFailed(f"Different answers to one {image}: {values}")


FIGURE: Final = Figure((MODEL, "minimal"), measure)
