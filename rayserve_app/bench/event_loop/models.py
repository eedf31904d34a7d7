"""A model of every kind in one event loop, which is probed, in a process of its own.

Of its own, as a replica's is: what other tests leave in the heap makes some steps take longer.
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
from rayserve_app.bench.event_loop.probe import LoopProbe, Step
from rayserve_app.bench.served import mount, serving
from rayserve_app.errors import ServingError
from rayserve_app.inference.backend import Backend
from rayserve_app.inference.model import Model
from rayserve_app.operations.server.settings import serve_variables
from rayserve_app.settings.model import ModelSettings
from rayserve_app.types import Metadata, Outputs, Reply, TensorSpec
from rayserve_app.web.messages import ClientDisconnected, Request

ENVIRONMENT: Final = serve_variables(None)

HEADS: Final = ((16, 16, 255), (32, 32, 255), (64, 64, 255))


def lengths(items: Sequence[Any]) -> Outputs:
    return [len(item) for item in items]


def same(items: Sequence[Any]) -> Outputs:
    return list(items)


def echo(items: Sequence[Any]) -> Outputs:
    return [Reply(bytes(item.body), item.content_type) for item in items]


def sums(items: Sequence[Any]) -> Outputs:
    return {"sums": np.array([item.sum() for item in items], np.float32)}


def heads(items: Sequence[Any]) -> Outputs:
    """Answer 5.48 MB to each item, as yolov3 does."""
    return {f"head{shape[0]}": np.ones((len(items), *shape), np.float32) for shape in HEADS}


def random_numbers(items: Sequence[Any], dtype: str) -> Outputs:
    """Answer as many numbers as the item says."""
    count = int(items[0][0])
    numbers = np.random.default_rng(0).random(count) * (100 if dtype == "int8" else 1)
    return {"numbers": np.repeat(numbers.astype(dtype)[None], len(items), 0)}


def detections(items: Sequence[Any]) -> Outputs:
    """Answer as many objects of Python as the item says."""
    return [[{"label": str(i), "score": i / 7} for i in range(int(item[0]))] for item in items]


def sentences(items: Sequence[Any]) -> Outputs:
    """Answer text of as many words as the item says."""
    return ["word " * int(item[0]) for item in items]


def failing(items: Sequence[Any]) -> Outputs:
    """Fail with much at hand."""
    made = detections([[50_000]])
    raise ValueError(f"after {len(made)} results")


def late(items: Sequence[Any]) -> Outputs:
    """Answer after the deadline."""
    time.sleep(0.25)
    return lengths(items)


FLOATS: Final = Metadata("numpy", (TensorSpec("input", "float32", (-1, -1)),))
DOUBLES: Final = {"type": "doubles"}

MODELS: Final[Mapping[str, tuple[Any, dict[str, Any], Metadata | None]]] = {
    "image": (lengths, {"type": "image", "size": (224, 224)}, None),
    "original": (lengths, {"type": "image"}, None),
    "bytes": (lengths, {"type": "bytes"}, None),
    "string": (same, {"type": "string"}, None),
    "base64": (lengths, {"type": "string", "codec": "base64"}, None),
    "stream": (lengths, {"type": "image", "codec": "packed_jpeg", "size": (64, 64)}, None),
    "yolo": (heads, {"type": "image", "codec": "packed_jpeg", "size": (64, 64)}, None),
    "request": (echo, {"type": "request"}, None),
    "tensor": (sums, {"type": "tensor"}, FLOATS),
    "doubles": (sums, DOUBLES, None),
    "float32": (lambda items: random_numbers(items, "float32"), DOUBLES, None),
    "int8": (lambda items: random_numbers(items, "int8"), DOUBLES, None),
    "detections": (detections, DOUBLES, None),
    "sentences": (sentences, DOUBLES, None),
    "failing": (failing, {"type": "image"}, None),
    "late": (late, {"type": "image"}, None),
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
    function, declared, metadata = MODELS[name]
    settings = {
        "input": declared,
        "batching": {"max_batch_size": 16},
        "limits": {"max_queued_items": 10_000},
        "threads": {"decode": 2},
    }
    if name == "late":
        settings["deadline"] = {"latency_ms": 150}
        settings["limits"] = {"body_timeout_s": 0.3}
    model = Model(
        ModelSettings.model_validate(settings | {"warm_up": False}),
        FunctionBackend(function, metadata),
        name=name,
    )
    model.load()
    model.warm_up()
    return model


HELD: Final = (Request, ServingError, ClientDisconnected)


class ProbedModels:
    """The process, seen from another."""

    def __init__(self, questions: Connection) -> None:
        self._questions = questions
        self.port: int = questions.recv()

    def restart(self) -> None:
        """Forget the steps until now."""
        self._ask("restart")

    @property
    def longest(self) -> Step:
        """The longest step since, when all that has come by now is done."""
        step: Step = self._ask("longest")
        return step

    def collect(self) -> None:
        """Let the garbage collector look for what nobody needs, which it does not by itself."""
        self._ask("collect")

    @property
    def held(self) -> list[str]:
        """The kinds of the requests and errors that there are, whether anything needs them or
        not."""
        kinds: list[str] = self._ask("held")
        return kinds

    def _ask(self, question: str) -> Any:
        self._questions.send(question)
        return self._questions.recv()


@contextmanager
def probed_models() -> Iterator[ProbedModels]:
    """Serve the models, each below its name, for as long as this lasts."""
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe()
    with patch.dict(os.environ, ENVIRONMENT):
        process = spawn.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
    theirs.close()
    try:
        yield ProbedModels(ours)
    finally:
        ours.close()
        process.join(10)
        process.kill()


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
    connections = Connections(app, lambda _: None)
    answers: dict[str, Callable[[], Any]] = {
        "restart": probe.restart,
        "longest": lambda: probe.longest,
        "collect": gc.collect,
        "held": lambda: [
            type(each).__name__ for each in gc.get_objects() if isinstance(each, HELD)
        ],
    }
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
