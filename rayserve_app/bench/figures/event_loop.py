"""The longest step of a replica's event loop, in processor time of the loop's own thread.

While a step runs, nothing else does: no other request, no health check. Each case is one request
to a model in a process of its own, by kind; the rows are the longest of their kind. No Serve runs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from rayserve_app.bench import pictures
from rayserve_app.bench.envelopes import all_envelopes
from rayserve_app.bench.figure import Effort, Figure, Row, at_most
from rayserve_app.bench.figures.packed_stream import stream
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.loop_probe import (
    ANY_STATUS,
    MOST_S,
    Probed,
    ProbedModels,
    Request,
    longest_step,
    probed_models,
)
from rayserve_app.bench.models import fresh_heads
from rayserve_app.types import Metadata, Outputs, TensorSpec

CONNECTIONS: Final = 4
MOST_AT_ONCE: Final = 16
FORMS: Final = ("application/json", "text/csv", "application/x-npy", "application/jsonlines")


def lengths(items: Sequence[Any]) -> Outputs:
    return [len(item) for item in items]


def sums(items: Sequence[Any]) -> Outputs:
    return {"sums": np.array([item.sum() for item in items], np.float32)}


def numbers(items: Sequence[Any]) -> Outputs:
    """Answer as many numbers as the item says."""
    return {"numbers": np.random.default_rng(0).random((len(items), int(items[0][0])), np.float32)}


def detections(items: Sequence[Any]) -> Outputs:
    """Answer as many objects of Python as the item says."""
    return [[{"label": str(i), "score": i / 7} for i in range(int(item[0]))] for item in items]


def failing(items: Sequence[Any]) -> Outputs:
    """Fail with much at hand."""
    raise ValueError(f"after {len(detections([[50_000]]))} results")


FLOATS: Final = Metadata("numpy", (TensorSpec("input", "float32", (-1, -1)),))
PACKED: Final = {"type": "image", "codec": "packed_jpeg", "size": (64, 64)}
MODELS: Final = {
    "image": Probed(lengths, {"type": "image", "size": (224, 224)}),
    "yolo": Probed(fresh_heads, PACKED),
    "tensor": Probed(sums, {"type": "tensor"}, FLOATS),
    "numbers": Probed(numbers, {"type": "doubles"}),
    "detections": Probed(detections, {"type": "doubles"}),
    "failing": Probed(failing, {"type": "image"}),
}


def photos(model: str, status: int = 200) -> Iterator[Request]:
    """Yield a JPEG of 130 KB in the requests of each protocol."""
    for each in all_envelopes(pictures.jpeg(pictures.SIDE), "image/jpeg", model, "image"):
        yield Request(model, each.path, each.body, each.content_type, each.headers, status)


def rows(model: str, array: Any, status: int = 200, end: int | None = None) -> Iterator[Request]:
    """Yield an array (N, length) as JSON in the requests of each protocol, up to an end."""
    count, length = array.shape
    text = str(array.round(7).tolist()).encode()
    tensor = b'{"name":"input","datatype":"FP32","shape":[%d,%d],"data":%s}' % (count, length, text)
    for path, body in {
        "/invocations": text,
        "/predict": b'{"input_batch":%s}' % text,
        f"/v1/models/{model}:predict": b'{"instances":%s}' % text,
        "": b'{"data":{"input":%s}}' % text,
        f"/v2/models/{model}/infer": b'{"inputs":[%s]}' % tensor,
    }.items():
        yield Request(model, path, body[:end], status=status)


def answers(model: str, count: int) -> Iterator[Request]:
    """Yield requests for so many values, in each form."""
    ask = b"[%d.0]" % count
    for accept in FORMS:
        yield Request(model, "/invocations", ask, headers={"accept": accept}, status=None)
    yield Request(model, "/predict", b'{"input":%s}' % ask)
    yield Request(model, f"/v1/models/{model}:predict", b'{"instances":[%s]}' % ask)


def kinds() -> dict[str, list[Request]]:
    many = np.random.default_rng(0).random((1000, 200), np.float32)
    npy = {"accept": "application/x-npy"}
    large = Request("yolo", "/invocations", stream(), "application/x-packed-jpeg", npy)
    return {
        "large bodies": [*photos("image"), *rows("tensor", many), large],
        "large answers": [*answers("numbers", 300_000), *answers("detections", 50_000)],
        "cut bodies": [*rows("tensor", many, 400, -3)],
        "dense bodies": [*rows("tensor", np.ones((999, 1), np.float32))],
        "failing models": [*photos("failing", ANY_STATUS)],
    }


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    return await asyncio.to_thread(_measure, effort)


def _measure(effort: Effort) -> list[Row]:
    asked = kinds()
    every = [request for of_kind in asked.values() for request in of_kind]
    mixes = [random.Random(seed).sample(every, MOST_AT_ONCE) for seed in range(effort.rounds)]
    with probed_models(f"{__name__}:MODELS") as models:
        found = {kind: [[each] for each in of_kind] for kind, of_kind in asked.items()}
        steps = {kind: _longest_ms(models, cases) for kind, cases in found.items()}
        steps[f"all kinds, c={CONNECTIONS}"] = _longest_ms(models, mixes, CONNECTIONS)
    bound = at_most(MOST_S * 1e3)
    return [Row(f"{kind}, longest step", [longest], "ms", bound) for kind, longest in steps.items()]


def _longest_ms(
    models: ProbedModels, cases: Sequence[Sequence[Request]], connections: int = 1
) -> float:
    return 1e3 * max(
        longest_step(models.ask, models.port, requests, connections=connections).seconds
        for requests in cases
    )


FIGURE: Final = Figure((), measure, starts_itself=True)
