"""Ten JPEGs in, 54.8 MB out: everything but the network itself, against the floor.

The model answers constants of yolov3's shapes. The floor is one process without a server: the ten
decoded on a pool of all cores, then the same bytes written to a socket of this machine, read by the
same code. A round is `RUNS_PER_SECOND * Effort.seconds` runs of each, of which the median counts.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from time import perf_counter
from types import TracebackType
from typing import Final, NamedTuple, Self

from rayserve_app.bench import pictures
from rayserve_app.bench.figures.figure import Figure, MeasurementFailed
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.large import (
    LargeAnswer,
    LargeAnswerClient,
    Loopback,
    receive,
    server_timing,
)
from rayserve_app.bench.load import Target
from rayserve_app.bench.models import HEADS_BYTES, MAX_IMAGES
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort, interleave
from rayserve_app.codecs import image, packed_jpeg
from rayserve_app.cores import available_cores
from rayserve_app.settings import LimitSettings
from rayserve_app.types import Array

NAME: Final = "packed-stream"
MOST_RATIO: Final = 2.0
RUNS_PER_SECOND: Final = 20 / 3
"""Twenty per round of the usual three seconds."""


class FloorTime(NamedTuple):
    """One run of the floor, in seconds."""

    decode: float
    send: float

    @property
    def total(self) -> float:
        return self.decode + self.send


def ten_jpegs() -> list[bytes]:
    """Return ten different JPEGs of 512x512 pixels."""
    return [pictures.jpeg(512, seed) for seed in range(MAX_IMAGES)]


class Floor:
    """Decode and send as one process without a server does; a context manager."""

    def __init__(self, jpegs: list[bytes]) -> None:
        self._jpegs = jpegs
        self._decoders = ThreadPoolExecutor(available_cores())
        self._reader = ThreadPoolExecutor(1)
        self._sockets = Loopback()
        # Written once, so that no page of them is new when the clock runs.
        self._sent = bytearray(b"\1") * HEADS_BYTES
        self._received = memoryview(bytearray(b"\1") * HEADS_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sockets.close()
        self._decoders.shutdown()
        self._reader.shutdown()

    def run(self) -> FloorTime:
        started_at = perf_counter()
        for _ in self._decoders.map(_decode, self._jpegs):
            continue
        decoded_at = perf_counter()
        reading = self._reader.submit(receive, self._sockets.client, self._received)
        self._sockets.server.sendall(self._sent)
        reading.result()
        return FloorTime(decoded_at - started_at, perf_counter() - decoded_at)


def _decode(jpeg: bytes) -> Array:
    return image.decode(jpeg, max_pixels=LimitSettings().max_pixels)


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    jpegs = ten_jpegs()
    body = packed_jpeg.encode(jpegs)
    url = instance.url("/constant-heads/invocations")
    target = Target.post(url, body, "application/octet-stream", accept="application/x-npy")
    runs = max(3, round(RUNS_PER_SECOND * effort.seconds))
    with LargeAnswerClient(target) as client, Floor(jpegs) as floor:
        ask(client)
        floor.run()
        pairs = await interleave(
            effort.rounds,
            partial(asyncio.to_thread, _repeat_served, client, runs),
            partial(asyncio.to_thread, _repeat_floor, floor, runs),
        )
    return _rows(pairs, len(body))


def _rows(pairs: list[tuple[list[LargeAnswer], list[FloorTime]]], body_bytes: int) -> list[Row]:
    served = [answer for answers, _ in pairs for answer in answers]
    floors = [time for _, times in pairs for time in times]
    ratio = median(
        median(answer.seconds for answer in answers) / median(time.total for time in times)
        for answers, times in pairs
    )
    milliseconds = {
        "served_ms": median(answer.seconds for answer in served),
        "floor_ms": median(time.total for time in floors),
        "floor_decode_ms": median(time.decode for time in floors),
        "floor_send_ms": median(time.send for time in floors),
        "client_cpu_ms": median(answer.reader_cpu_seconds for answer in served),
    }
    details = {name: seconds * 1e3 for name, seconds in milliseconds.items()}
    details |= {f"server_{name}_ms": value for name, value in median_stages(served).items()}
    case = f"{body_bytes / 1e6:.1f} MB in, {HEADS_BYTES / 1e6:.1f} MB out"
    return [Row(NAME, case, ratio, "x floor", Bound("at most", MOST_RATIO), details)]


def median_stages(answers: list[LargeAnswer]) -> dict[str, float]:
    """Return the median of each stage of `Server-Timing`, in milliseconds."""
    timings = [server_timing(each.answer) for each in answers]
    return {name: median(timing[name] for timing in timings) for name in timings[0]}


def ask(client: LargeAnswerClient) -> LargeAnswer:
    """Send the ten images and check that the answer is as long as theirs is."""
    received = client.send()
    status, body_bytes = received.answer.status, received.answer.body_bytes
    if status != 200 or body_bytes < HEADS_BYTES:
        raise MeasurementFailed(f"status {status} and {body_bytes} bytes, not {HEADS_BYTES}")
    return received


def _repeat_served(client: LargeAnswerClient, runs: int) -> list[LargeAnswer]:
    return [ask(client) for _ in range(runs)]


def _repeat_floor(floor: Floor, runs: int) -> list[FloorTime]:
    return [floor.run() for _ in range(runs)]


FIGURE: Final = Figure(NAME, ("constant-heads",), measure)
