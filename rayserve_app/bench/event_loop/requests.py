"""Requests of every kind, and what sends them to a replica whose event loop is probed."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from typing import Final

from rayserve_app.bench.event_loop import dense, large
from rayserve_app.bench.event_loop.large import Make, Request
from rayserve_app.bench.event_loop.models import ProbedModels
from rayserve_app.bench.event_loop.probe import LoopProbe, Step
from rayserve_app.inference.model import INLINE_BYTES

MOST_S: Final = 1e-3
"""What a step may take: nothing that takes longer runs on a replica's event loop."""

REPEATS: Final = 20

REPEATS_AT_ONCE: Final = 5
PAUSE_S: Final = 1.0
"""Between so many repeats, for a machine that is slow for a while."""


def merge(**groups: Mapping[str, Make]) -> dict[str, Make]:
    return {
        f"{group}: {name}": make for group, found in groups.items() for name, make in found.items()
    }


def in_any_form(found: Mapping[str, Make]) -> dict[str, Make]:
    """Return requests for results of which not all forms are known."""
    return {name: partial(_with_status, make, None) for name, make in found.items()}


def of_any_status(**groups: Mapping[str, Make]) -> dict[str, Make]:
    found = merge(**groups)
    return {name: partial(_with_status, make, large.ANY_STATUS) for name, make in found.items()}


def _with_status(make: Make, status: int | None) -> Request:
    return make()._replace(status=status)


BODIES: Final = merge(
    photo=large.images("image", large.photo, "image/jpeg"),
    large_photo=large.images("image", large.large_photo, "image/png"),
    large_bytes=large.images("bytes", large.large_photo, "image/png"),
    large_base64=large.images("base64", large.large_photo, "image/png"),
    large_request=large.requests("request", large.large_photo, "image/png"),
    many_rows=large.tensors("tensor", 1000, 200),
    long_rows=large.tensors("tensor", 10, 50_000),
    many_vectors=large.tensors("doubles", 1000, 200),
    streams=large.streams("yolo", "stream"),
)
ANSWERS: Final = merge(
    float32=large.answers("float32", 300_000),
    int8=large.answers("int8", 300_000),
    detections=in_any_form(large.answers("detections", 50_000)),
    sentences=in_any_form(large.answers("sentences", 1_000_000)),
)
OTHERS: Final = merge(
    faults=large.faults("tensor"),
    broken_base64=large.broken_base64("bytes"),
    documents=large.documents("tensor"),
)
DENSE: Final = merge(
    short_tensor=in_any_form(dense.numbers("tensor", INLINE_BYTES)),
    short_doubles=in_any_form(dense.numbers("doubles", INLINE_BYTES)),
    long_tensor=in_any_form(dense.numbers("tensor", 16 * INLINE_BYTES)),
    short_strings=dense.strings(INLINE_BYTES),
    long_strings=dense.strings(16 * INLINE_BYTES),
    few_images=in_any_form(dense.tiny_images(INLINE_BYTES)),
    many_images=in_any_form(dense.tiny_images(16 * INLINE_BYTES)),
    few_float32=dense.results("float32", INLINE_BYTES // 4),
    few_int8=dense.results("int8", INLINE_BYTES // 4),
    few_detections=in_any_form(dense.results("detections", 50)),
    few_sentences=in_any_form(dense.results("sentences", INLINE_BYTES // 5)),
)
FAILURES: Final = of_any_status(failing=large.images("failing", large.photo, "image/jpeg"))
CASES: Final = BODIES | ANSWERS | OTHERS | DENSE | FAILURES

LATE: Final = of_any_status(late=large.images("late", large.photo, "image/jpeg"))
"""No cases of the above: a processor that has waited for a deadline is slow at first."""


def mixed(seed: int) -> list[Request]:
    """Return requests of all kinds and sizes, others for each seed."""
    chosen = random.Random(seed).sample([*(BODIES | ANSWERS | OTHERS).values()], 16)
    return [make() for make in chosen]


class Replica:
    """What is served in one event loop, which is probed."""

    def __init__(self, probe: LoopProbe | ProbedModels, port: int) -> None:
        self.probe = probe
        self._port = port

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self._port, timeout=60)

    def longest(self, *requests: Request, connections: int = 1, most_s: float = MOST_S) -> Step:
        """Return the longest step that the requests take every time: what the machine holds up is
        not held up every time.

        Args:
            most_s: one round of steps that are no longer is enough.
        """
        found = []
        for _ in range(REPEATS):
            self.probe.restart()
            with ThreadPoolExecutor(connections) as clients:
                parts = [requests[start::connections] for start in range(connections)]
                for _ in clients.map(self.send, parts):
                    pass
            found.append(self.probe.longest)
            if found[-1].seconds <= most_s:
                break
            if len(found) % REPEATS_AT_ONCE == 0:
                time.sleep(PAUSE_S)
        return min(found)

    def send(self, requests: Sequence[Request]) -> None:
        connection = self.connect()
        for request in requests:
            headers = dict(request.headers)
            if request.content_type is not None:
                headers["content-type"] = request.content_type
            path = f"/{request.model}{request.path}"
            connection.request(request.method, path, request.body, headers)
            response = connection.getresponse()
            start = response.read(500)
            while response.read(1 << 20):
                pass
            if request.status is None:
                assert response.status < 500, start
            elif request.status != large.ANY_STATUS:
                assert response.status == request.status, start
        connection.close()
