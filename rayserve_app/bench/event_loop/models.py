"""A model of every kind in one event loop, which is probed, in a process of its own.

Of its own, as a replica's is: what others leave in the heap makes some steps take longer.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from starlette.types import Receive, Scope, Send

from deployments.internals.connection import Connections
from rayserve_app.app import create_app
from rayserve_app.bench.event_loop.probe import LoopProbe
from rayserve_app.bench.models import fresh_heads
from rayserve_app.bench.served import mount, serving
from rayserve_app.errors import ServingError
from rayserve_app.inference.backend import Backend
from rayserve_app.inference.model import Model
from rayserve_app.operations.server.settings import serve_variables
from rayserve_app.settings.model import ModelSettings
from rayserve_app.types import Metadata, Outputs, Reply, TensorSpec
from rayserve_app.web.messages import ClientDisconnected, Request


def lengths(items: Sequence[Any]) -> Outputs:
    return [len(item) for item in items]


def echo(items: Sequence[Any]) -> Outputs:
    return [Reply(bytes(item.body), item.content_type) for item in items]


def sums(items: Sequence[Any]) -> Outputs:
    return {"sums": np.array([item.sum() for item in items], np.float32)}


def random_numbers(items: Sequence[Any], dtype: str) -> Outputs:
    """Answer as many numbers as the item says."""
    numbers = np.random.default_rng(0).random(int(items[0][0])) * (100 if dtype == "int8" else 1)
    return {"numbers": np.repeat(numbers.astype(dtype)[None], len(items), 0)}


def detections(items: Sequence[Any]) -> Outputs:
    """Answer as many objects of Python as the item says."""
    return [[{"label": str(i), "score": i / 7} for i in range(int(item[0]))] for item in items]


def failing(items: Sequence[Any]) -> Outputs:
    """Fail with much at hand."""
    made = detections([[50_000]])
    raise ValueError(f"after {len(made)} results")


def late(items: Sequence[Any]) -> Outputs:
    """Answer after the deadline."""
    time.sleep(0.25)
    return lengths(items)


IMAGE: Final = {"type": "image"}
DOUBLES: Final = {"type": "doubles"}
PACKED: Final = {"type": "image", "codec": "packed_jpeg", "size": (64, 64)}
MODELS: Final[Mapping[str, tuple[Callable[[Sequence[Any]], Outputs], dict[str, Any]]]] = {
    "image": (lengths, {"type": "image", "size": (224, 224)}),
    "original": (lengths, IMAGE),
    "bytes": (lengths, {"type": "bytes"}),
    "string": (list, {"type": "string"}),
    "base64": (lengths, {"type": "string", "codec": "base64"}),
    "stream": (lengths, PACKED),
    "yolo": (fresh_heads, PACKED),
    "request": (echo, {"type": "request"}),
    "tensor": (sums, {"type": "tensor"}),
    "doubles": (sums, DOUBLES),
    "float32": (lambda items: random_numbers(items, "float32"), DOUBLES),
    "int8": (lambda items: random_numbers(items, "int8"), DOUBLES),
    "detections": (detections, DOUBLES),
    "sentences": (lambda items: ["word " * int(item[0]) for item in items], DOUBLES),
    "failing": (failing, IMAGE),
    "late": (late, IMAGE),
}


class FunctionBackend(Backend):
    """A function of a list of items."""

    def __init__(
        self, function: Callable[[Sequence[Any]], Outputs], metadata: Metadata | None = None
    ) -> None:
        self._function = function
        self._metadata = metadata or Metadata(platform="function")

    def load(self) -> None:
        return

    def predict(self, items: Sequence[Any]) -> Outputs:
        return self._function(items)

    def metadata(self) -> Metadata:
        return self._metadata


def create_model(name: str) -> Model:
    function, declared = MODELS[name]
    settings: dict[str, Any] = {
        "input": declared,
        "batching": {"max_batch_size": 16},
        "limits": {"max_queued_items": 10_000},
        "threads": {"decode": 2},
        "warm_up": False,
    }
    if name == "late":
        settings |= {"deadline": {"latency_ms": 150}, "limits": {"body_timeout_s": 0.3}}
    floats = Metadata("numpy", (TensorSpec("input", "float32", (-1, -1)),))
    backend = FunctionBackend(function, floats if name == "tensor" else None)
    model = Model(ModelSettings.model_validate(settings), backend, name=name)
    model.load()
    model.warm_up()
    return model


class ProbedModels:
    """The process, seen from another."""

    def __init__(self, questions: Connection) -> None:
        self._questions = questions
        self.port: int = questions.recv()

    def ask(self, question: str) -> Any:
        """Have the process `restart` the probe, tell its `longest` step since, `collect` garbage,
        which it does not by itself, or tell the kinds of requests and errors that are `held`."""
        self._questions.send(question)
        return self._questions.recv()


@contextmanager
def probed_models() -> Iterator[ProbedModels]:
    """Serve the models, each below its name, for as long as this lasts."""
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe()
    with patch.dict(os.environ, serve_variables(None)):
        process = spawn.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
    theirs.close()
    try:
        yield ProbedModels(ours)
    finally:
        ours.close()
        process.join(10)
        process.kill()


def _held() -> list[str]:
    kinds = (Request, ServingError, ClientDisconnected)
    return [type(each).__name__ for each in gc.get_objects() if isinstance(each, kinds)]


def _serve(questions: Connection) -> None:
    """Serve until nobody can ask any more."""
    models = [create_model(name) for name in MODELS]
    apps = {
        model.name: mount(create_app(model, takes_views=lambda _: True), f"/{model.name}")
        for model in models
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await apps[scope["path"].split("/")[1]](scope, receive, send)

    probe = LoopProbe()
    answers = {**probe.answers, "collect": gc.collect, "held": _held}
    connections = Connections(app, lambda _: None)
    with (
        probe.watching(),
        serving(probe.around(app), loop="asyncio", http=connections) as port,
    ):
        questions.send(port)
        try:
            while True:
                questions.send(answers[questions.recv()]())
        except EOFError:
            pass
    for model in models:
        model.close()
