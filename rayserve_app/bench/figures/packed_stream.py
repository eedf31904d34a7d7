"""Ten JPEGs in, 54.8 MB out: everything but the network itself, against the floor; and the memory.

The model answers constants of yolov3's shapes. The floor is one process without a server: the ten
decoded on a pool of all cores, then the same bytes written to a socket of this machine, read by the
same code. A round is `RUNS_PER_SECOND * Effort.seconds` runs of each, of which the median counts.
Memory is that of a replica whose model makes its answer anew, above what the replica takes before
its first request. `bare_ms` is what an ingress written by hand takes that answers as many bytes and
does nothing else: the way through Serve and HAProxy, which the floor does not go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import perf_counter
from types import TracebackType
from typing import Final, NamedTuple, Self

from rayserve_app.bench import pictures, server_timing
from rayserve_app.bench.figures.figure import Figure, MeasurementFailed
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.large_answers import (
    LargeAnswer,
    LargeAnswerClient,
    Loopback,
    receive,
)
from rayserve_app.bench.load import Target
from rayserve_app.bench.models import HEADS_BYTES, MAX_IMAGES
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort
from rayserve_app.bench.usage import peak_bytes, reset_peak
from rayserve_app.codecs import image, packed_jpeg
from rayserve_app.process.cores import available_cores
from rayserve_app.settings.model import LimitSettings
from rayserve_app.types import Array

NAME: Final = "packed-stream"
MODEL: Final = "constant-heads"
FRESH: Final = "fresh-heads"
BARE: Final = "large"
MOST_RATIO: Final = 1.3
MOST_REPLIES: Final = 2.5
"""The replica's memory at its peak above what it has before its first request, in replies."""

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


class Round(NamedTuple):
    """What was measured in turn."""

    served: list[LargeAnswer]
    bare: list[LargeAnswer]
    floor: list[FloorTime]


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    jpegs = ten_jpegs()
    body = packed_jpeg.encode(jpegs)
    served, fresh, bare = (
        Target.post(
            instance.url(path), body, "application/octet-stream", accept="application/x-npy"
        )
        for path in (f"/{MODEL}/invocations", f"/{FRESH}/invocations", f"/{BARE}")
    )
    runs = max(3, round(RUNS_PER_SECOND * effort.seconds))
    memory = await asyncio.to_thread(_measure_memory, instance, fresh, runs)
    with (
        LargeAnswerClient(served) as client,
        LargeAnswerClient(bare) as other,
        Floor(jpegs) as floor,
    ):
        for each in (client, other):
            ask(each)
        floor.run()
        rounds = [
            Round(
                await asyncio.to_thread(_repeat, client, runs),
                await asyncio.to_thread(_repeat, other, runs),
                await asyncio.to_thread(_repeat_floor, floor, runs),
            )
            for _ in range(effort.rounds)
        ]
    case = f"{len(body) / 1e6:.1f} MB in, {HEADS_BYTES / 1e6:.1f} MB out"
    return [time_row(case, rounds), memory_row(case, *memory)]


def _measure_memory(instance: Instance, target: Target, runs: int) -> tuple[int, int]:
    """Return the bytes that are resident before the first request and at the peak."""
    (replica,) = instance.replicas(FRESH)
    if not reset_peak(replica):
        raise MeasurementFailed("the kernel does not tell a peak of memory")
    idle = peak_bytes(replica)
    with LargeAnswerClient(target) as client:
        _repeat(client, runs)
    return idle, peak_bytes(replica)


def time_row(case: str, rounds: Sequence[Round]) -> Row:
    """Return the row of the wall time against the floor's."""
    ratios = [_wall_s(each.served) / _floor_s(each.floor) for each in rounds]
    served = [answer for each in rounds for answer in each.served]
    floors = [time for each in rounds for time in each.floor]
    milliseconds = {
        "served_ms": _wall_s(served),
        "bare_ms": _wall_s([answer for each in rounds for answer in each.bare]),
        "floor_ms": _floor_s(floors),
        "floor_decode_ms": median(time.decode for time in floors),
        "floor_send_ms": median(time.send for time in floors),
        "client_cpu_ms": median(answer.reader_cpu_seconds for answer in served),
    }
    details = {name: seconds * 1e3 for name, seconds in milliseconds.items()}
    details |= {f"server_{name}_ms": value for name, value in median_stages(served).items()}
    return Row.of_rounds(NAME, case, ratios, "x floor", Bound("at most", MOST_RATIO), details)


def memory_row(case: str, idle: int, peak: int) -> Row:
    """Return the row of the replica's memory, from the bytes that were resident before its first
    request and at the peak of all."""
    return Row(
        NAME,
        f"{case}, peak memory",
        (peak - idle) / HEADS_BYTES,
        "x reply",
        Bound("at most", MOST_REPLIES),
        {"idle_mb": idle / 1e6, "peak_mb": peak / 1e6},
    )


def _wall_s(answers: Sequence[LargeAnswer]) -> float:
    return median(answer.seconds for answer in answers)


def _floor_s(times: Sequence[FloorTime]) -> float:
    return median(time.total for time in times)


def median_stages(answers: Sequence[LargeAnswer]) -> dict[str, float]:
    """Return the median of each stage of `Server-Timing`, in milliseconds."""
    return server_timing.median_stages(each.answer.header("server-timing") for each in answers)


def ask(client: LargeAnswerClient) -> LargeAnswer:
    """Send the ten images and check that the answer is as long as theirs is."""
    received = client.send()
    status, body_bytes = received.answer.status, received.answer.body_bytes
    if status != 200 or body_bytes < HEADS_BYTES:
        raise MeasurementFailed(f"status {status} and {body_bytes} bytes, not {HEADS_BYTES}")
    return received


def _repeat(client: LargeAnswerClient, runs: int) -> list[LargeAnswer]:
    return [ask(client) for _ in range(runs)]


def _repeat_floor(floor: Floor, runs: int) -> list[FloorTime]:
    return [floor.run() for _ in range(runs)]


FIGURE: Final = Figure(NAME, (MODEL, FRESH, BARE), measure)
