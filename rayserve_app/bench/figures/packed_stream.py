"""Ten JPEGs in, 54.8 MB out: everything but the network itself, against the floor; and the memory.

The model answers constants of yolov3's shapes. The floor is one process without a server: the ten
decoded on a pool of all cores, then the same bytes written to a socket of this machine, read by the
same code. The median of each `Effort.seconds / 6` counts. Memory is that of a replica whose model
makes its answer anew, above what the replica takes before its first request. `by hand` is what an
ingress written by hand takes that answers as many bytes and does nothing else: the way through
Serve and HAProxy, which the floor does not go.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Final

from rayserve_app.bench import pictures
from rayserve_app.bench.figure import (
    Effort,
    Figure,
    Row,
    at_most,
    compare,
    take_turns,
)
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.large_answers import LargeAnswerClient, receive, repeat, turns
from rayserve_app.bench.load import Load, Target
from rayserve_app.bench.models import HEADS_BYTES, MAX_IMAGES
from rayserve_app.codecs import image, packed_jpeg
from rayserve_app.process.cores import available_cores
from rayserve_app.settings.model import LimitSettings

SERVED: Final = "constant-heads"
FRESH: Final = "fresh-heads"
BY_HAND: Final = "large"
TIMES_FLOOR: Final = at_most(1.3)
REPLIES: Final = at_most(2.5)
"""The replica's memory at its peak above what it has before its first request, in replies."""

SECONDS_FACTOR: Final = 1 / 3
LEAST: Final = 3
CASE: Final = f"1.3 MB in, {HEADS_BYTES / 1e6:.1f} MB out"


@cache
def jpegs() -> list[bytes]:
    """Return ten different JPEGs of 512x512 pixels."""
    return [pictures.jpeg(512, seed) for seed in range(MAX_IMAGES)]


def stream() -> bytes:
    return packed_jpeg.encode(jpegs())


def target(url: str) -> Target:
    """Return the request with ten JPEGs."""
    return Target.post(url, stream(), "application/octet-stream", accept="application/x-npy")


def median_s(load: Load) -> float:
    return load.percentile(50)


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    seconds = SECONDS_FACTOR * effort.seconds
    served, by_hand, fresh = (
        LargeAnswerClient(target(instance.url(path)), HEADS_BYTES)
        for path in (f"/{SERVED}/invocations", f"/{BY_HAND}", f"/{FRESH}/invocations")
    )
    with closing(served), closing(by_hand), closing(fresh), _floor() as floor:
        memory = await asyncio.to_thread(_measure_memory, instance, fresh, effort.rounds * seconds)
        loads = await take_turns(
            effort.rounds,
            {
                "served": turns(served.send, seconds, LEAST),
                "floor": turns(floor, seconds, LEAST),
                "by hand": turns(by_hand.send, seconds, LEAST),
            },
        )
    return [time_row(loads), memory]


def time_row(loads: Mapping[str, Sequence[Load]]) -> Row:
    """Return the row of the wall time against the floor's."""
    return compare(CASE, "x floor", loads, TIMES_FLOOR, by=median_s)


def _measure_memory(instance: Instance, client: LargeAnswerClient, seconds: float) -> Row:
    (replica,) = instance.replicas(FRESH)
    folder = Path("/proc", str(replica.pid))
    (folder / "clear_refs").write_text("5")  # the kernel forgets the peak (proc(5), clear_refs)
    idle = peak_bytes(folder)
    repeat(client.send, seconds, LEAST)
    return memory_row(idle, peak_bytes(folder))


def peak_bytes(process: Path) -> int:
    """Return the peak of the resident memory of a process in /proc."""
    status = (process / "status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def memory_row(idle: int, peak: int) -> Row:
    """Return the row of the replica's memory, from the bytes that were resident before its first
    request and at the peak of all."""
    details = {"idle_mb": idle / 1e6, "peak_mb": peak / 1e6}
    above = (peak - idle) / HEADS_BYTES
    return Row(f"{CASE}, peak memory", [above], "x reply", REPLIES, {}, details)


@contextmanager
def _floor() -> Iterator[Callable[[], str]]:
    """Decode and send as one process without a server does."""
    decode = partial(image.decode, max_pixels=LimitSettings().max_pixels)
    # Written once, so that no page of them is new when the clock runs.
    sent, received = (bytearray(b"\1") * HEADS_BYTES for _ in range(2))
    with ExitStack() as stack:
        decoders = stack.enter_context(ThreadPoolExecutor(available_cores()))
        reader = stack.enter_context(ThreadPoolExecutor(1))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = stack.enter_context(socket.create_connection(listener.getsockname()))
        server = stack.enter_context(listener.accept()[0])

        def run() -> str:
            for _ in decoders.map(decode, jpegs()):
                continue
            reading = reader.submit(receive, client, memoryview(received))
            server.sendall(sent)
            reading.result()
            return ""

        yield run


FIGURE: Final = Figure((SERVED, FRESH, BY_HAND), measure)
