"""Seconds from spawning `rayserve-app serve` with one model to the first 200 of its `/ping`.

Cold: what the files of the environments and of the model hold is not in the page cache, but for
what this process itself has mapped, and the model is an archive that is not extracted yet. Below a
virtual machine its host may still remember the disk. Cached: the next start, which finds both.
Ray, Serve and HAProxy start each time.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from rayserve_app.artifacts import cache
from rayserve_app.artifacts.mxnet_environment import find_python
from rayserve_app.bench.figures.figure import Figure, MeasurementFailed
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.report import Row
from rayserve_app.bench.rounds import Effort
from rayserve_app.bench.subjects import CLOSURE, MXNET, TENSORFLOW, TORCH, Subject

NAME: Final = "start"
SUBJECTS: Final = (CLOSURE, TENSORFLOW, TORCH, MXNET)
POLL_S: Final = 0.05


class Starts(NamedTuple):
    """What each round took, in seconds."""

    cold: list[float]
    cached: list[float]


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    rows = []
    for subject in SUBJECTS:
        with tempfile.TemporaryDirectory(prefix="rayserve-bench-") as folder:
            starts = _measure(instance, subject, rounds_of_starts(effort), Path(folder))
        for kind, seconds in starts._asdict().items():
            case = f"{subject.framework}, {subject.application}, {kind}"
            rows.append(Row.of_rounds(NAME, case, seconds, "s", None, {"starts": len(seconds)}))
    return rows


def rounds_of_starts(effort: Effort) -> int:
    """Return half of the rounds, and two at most: a start takes long, and moves little."""
    return min(2, (effort.rounds + 1) // 2)


def _measure(instance: Instance, subject: Subject, rounds: int, folder: Path) -> Starts:
    (declared,) = (each for each in instance.applications if each["name"] == subject.application)
    application = with_archive(declared, folder)
    starts = Starts([], [])
    for number in range(rounds):
        extracted = folder / f"cache-{number}"
        variables = {cache.ENVIRONMENT_VARIABLE: str(extracted)}
        drop_from_page_cache([*_environments(subject), folder])
        for seconds in starts:
            seconds.append(_start(instance.alone(application, variables), subject.application))
        if application is not declared and not extracted.exists():
            raise MeasurementFailed(f"{subject.application} did not come from the archive")
    return starts


def with_archive(application: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the application with its model, if it has files, in an archive in `folder`."""
    model = application["args"]["model"]
    if "path" not in model:
        return application
    archive = folder / "model.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as file:
        file.add(model["path"], arcname=".")
    return {**application, "args": {"model": {**model, "path": str(archive)}}}


def _environments(subject: Subject) -> list[Path]:
    """Return the folders that Serve and the replica import from."""
    found = [Path(sys.prefix), Path(sysconfig.get_path("stdlib"))]
    if subject is MXNET:
        found.append(find_python(os.environ, Path(sys.prefix)).parents[1])
    return found


def drop_from_page_cache(directories: Iterable[Path]) -> None:
    """Have the kernel forget what the files hold; what a process has mapped, it keeps."""
    os.sync()  # only what is on the disk can be forgotten
    for path in _files(directories):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:  # a link, or gone
            continue
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _files(directories: Iterable[Path]) -> Iterator[str]:
    for directory in directories:
        for parent, _, names in os.walk(directory):
            yield from (os.path.join(parent, name) for name in names)


def _start(instance: Instance, application: str) -> float:
    """Start an instance, stop it, and return the seconds from its spawning to the first answer."""
    url = instance.url(f"/{application}/ping")
    gave_up = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        try:
            answered = pool.submit(_seconds_to_answer, url, gave_up)
            with instance:
                return answered.result()
        except BaseException:
            gave_up.set()
            raise


def _seconds_to_answer(url: str, gave_up: threading.Event) -> float:
    """Ask until the answer is 200. What `serve` prints comes later: it looks once a second."""
    # A proxy for the outside world (http_proxy) has no business here.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    started_at = time.perf_counter()
    while not gave_up.wait(POLL_S):
        try:
            with opener.open(url, timeout=1):
                return time.perf_counter() - started_at
        except (urllib.error.URLError, OSError):
            continue
    raise MeasurementFailed(f"{url} was never answered")


FIGURE: Final = Figure(
    NAME, tuple(subject.application for subject in SUBJECTS), measure, starts_itself=True
)
