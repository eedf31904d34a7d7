"""A framework's loop, framework_loop.py, as a child of the bench."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from rayserve_app.artifacts.mxnet_environment import find_python
from rayserve_app.bench.framework_loop import Pace
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.subjects import MXNET, Subject

Loop: TypeAlias = Callable[[int, float], Awaitable[Pace]]
"""Measures a model in a loop, with a batch size, for some seconds."""


class LoopEnded(Exception):
    """The process of a loop ended, as one does whose model cannot be loaded."""


@contextmanager
def framework_loop(instance: Instance, subject: Subject) -> Iterator[Loop]:
    """Run the model in a process of its own, as nice as the replicas are and with their
    environment: the allocator's settings alone make PyTorch faster by a tenth.

    Raises:
        LoopEnded: when it is used.
    """
    python = Path(sys.executable)
    if subject is MXNET:
        python = find_python(os.environ, Path(sys.prefix))
    command = [str(python), "-m", "rayserve_app.bench.framework_loop", str(instance.config_path)]
    environment = instance.environment
    if not subject.needs_gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with subprocess.Popen(
        [*command, subject.application],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        asked, told = process.stdin, process.stdout
        assert asked is not None
        assert told is not None

        async def measure_pace(batch_size: int, seconds: float) -> Pace:
            asked.write(f"{batch_size} {seconds}\n")
            asked.flush()
            line = await asyncio.to_thread(told.readline)
            if not line:
                raise LoopEnded(f"The loop of {subject.application} ended")
            return Pace(**json.loads(line))

        try:
            yield measure_pace
        finally:
            process.kill()
