"""What a replica does to its process: BLAS and OpenCV keep to the threads that the YAML gives them,
and the garbage collector to what requests leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from rayserve_app.process.cores import available_cores

# numpy is imported by Ray, long before; scipy, with a BLAS of its own, by the model.
REPLICA = """
import gc, json, sys
import numpy
from deployments.replica.application import load, warm_up
from deployments.closure.backend import ClosureBackend, ClosureSettings
from rayserve_app.inference.model import Model

settings = ClosureSettings.model_validate(json.loads(sys.argv[1]))
model = Model(settings, ClosureBackend(settings), name="m")
load(model)
warm_up(model)
looked_at = len(gc.get_objects()) / gc.get_freeze_count()
print(json.dumps(model.backend.predict(["any"])[0] | {"looked_at": looked_at}))
"""


def thread_counts(items: Sequence[str]) -> list[Any]:
    """Return the threads of each BLAS of this process, by its file, and of OpenCV."""
    import cv2
    import scipy.linalg
    from threadpoolctl import threadpool_info

    assert scipy.linalg
    blas = {
        library["filepath"]: library["num_threads"]
        for library in threadpool_info()
        if library["user_api"] == "blas"
    }
    return [{"blas": blas, "opencv": cv2.getNumThreads()}] * len(items)


def ask(threads: dict[str, int], **environment: str) -> Any:
    """Return what a closure finds in a fresh process with these settings."""
    function = f"{thread_counts.__module__}:{thread_counts.__name__}"
    model = {"function": function, "input": {"type": "string"}, "threads": threads}
    done = subprocess.run(
        [sys.executable, "-c", REPLICA, json.dumps(model)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(available_cores() < 2, reason="no BLAS takes more threads than cores")
@pytest.mark.parametrize(("compute", "otherwise"), [(1, "2"), (2, "1")])
def test_every_blas_has_the_threads_that_compute(compute: int, otherwise: str) -> None:
    found = ask({"compute": compute}, OMP_NUM_THREADS=otherwise, OPENBLAS_NUM_THREADS=otherwise)
    assert len(found["blas"]) >= 2
    assert set(found["blas"].values()) == {compute}


def test_blas_has_as_many_threads_as_the_process_may_use_cores_if_nobody_says() -> None:
    """Whatever Ray makes of `num_cpus: 0.2`."""
    assert set(ask({}, OMP_NUM_THREADS="1")["blas"].values()) == {available_cores()}


def test_opencv_has_one_thread_in_each_that_decodes() -> None:
    assert ask({"decode": 2, "compute": 3})["opencv"] == 1


def test_the_garbage_collector_looks_at_little_of_what_is_there_to_stay() -> None:
    assert ask({})["looked_at"] < 0.5
