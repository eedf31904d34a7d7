"""A model called in a loop, without a server: what its framework can do by itself.

`framework_loop` runs it as a child, in the environment that the model's replicas run in:
`python -m rayserve_app.bench.framework_loop CONFIG APPLICATION`. Each line that comes in on
standard input is a batch size and a number of seconds to measure; a `Pace` as JSON goes out.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import yaml

from deployments.internals.applications import bound_arguments
from rayserve_app.artifacts.mxnet_environment import find_python
from rayserve_app.bench import pictures
from rayserve_app.importing import import_from_string
from rayserve_app.inference.backend import Backend
from rayserve_app.inference.model import Model
from rayserve_app.types import Invocation, Item

if TYPE_CHECKING:
    from rayserve_app.bench.instance import Instance


class Pace(NamedTuple):
    """How fast a loop goes."""

    per_s: float
    """Items per second."""
    p50_ms: float
    """Median time of one batch."""


Loop: TypeAlias = Callable[[int, float], Awaitable[Pace]]
"""Measures a model in a loop, with a batch size, for some seconds."""


class LoopEnded(Exception):
    """The process of a loop ended, as one does whose model cannot be loaded."""


@contextmanager
def framework_loop(instance: Instance, application: str) -> Iterator[Loop]:
    """Run the model in a process of its own, as nice as the replicas are and with their
    environment: the allocator's settings alone make PyTorch faster by a tenth.

    Raises:
        LoopEnded: when it is used.
    """
    python = Path(sys.executable)
    import_paths = {each["name"]: each["import_path"] for each in instance.applications}
    if import_paths.get(application, "").startswith("deployments.mxnet:"):
        python = find_python(os.environ, Path(sys.prefix))
    with subprocess.Popen(
        [str(python), "-m", __name__, str(instance.config_path), application],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**instance.environment, "CUDA_VISIBLE_DEVICES": ""},
    ) as process:
        asked, told = process.stdin, process.stdout
        assert asked is not None
        assert told is not None

        async def measure_pace(batch_size: int, seconds: float) -> Pace:
            asked.write(f"{batch_size} {seconds}\n")
            asked.flush()
            line = await asyncio.to_thread(told.readline)
            if not line:
                raise LoopEnded(f"The loop of {application} ended")
            return Pace(**json.loads(line))

        try:
            yield measure_pace
        finally:
            process.kill()


def load_model(config_path: Path, application: str) -> Model:
    """Return the loaded model that a Serve YAML declares under an application's name, with all
    cores for one batch."""
    config = yaml.safe_load(config_path.read_text())
    (declared,) = (each for each in config["applications"] if each["name"] == application)
    declared["args"]["model"].pop("threads", None)
    built: Any = import_from_string(declared["import_path"])(declared["args"])
    settings, create_backend = bound_arguments(built)
    backend: Backend = create_backend()
    model = Model(settings, backend, name=application)
    model.load()
    return model


def measure(model: Model, batch_size: int, seconds: float) -> Pace:
    """Predict one batch after another, of items that are decoded already; user code that takes
    whole requests decodes them itself."""
    predict = model.select().predict
    batch = [_item(model)] * batch_size
    predict(batch)
    times: list[float] = []
    now = started_at = perf_counter()
    while now - started_at < seconds:
        before = now
        predict(batch)
        now = perf_counter()
        times.append(now - before)
    return Pace(len(times) * batch_size / (now - started_at), median(times) * 1e3)


def _item(model: Model) -> Item:
    if model.settings.input.type == "request":
        return Invocation(pictures.jpeg(pictures.SIDE), "image/jpeg")
    height, width = model.settings.input.size or (1, 1)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return model.select().inputs.preprocess(pixels)


def main() -> None:
    config_path, application = sys.argv[1:]
    model = load_model(Path(config_path), application)
    for line in sys.stdin:
        batch_size, seconds = line.split()
        pace = measure(model, int(batch_size), float(seconds))
        print(json.dumps(pace._asdict()), flush=True)


if __name__ == "__main__":
    main()
