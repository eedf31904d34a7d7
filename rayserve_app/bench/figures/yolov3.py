"""Where the time of a real request goes: yolov3 narrow, ten images each.

What is neither decoding nor the model is ours, Serve's and the network's. Requests go one after
another for `Effort.rounds * Effort.seconds`.
"""

from __future__ import annotations

import asyncio
from statistics import median
from time import perf_counter
from typing import Final

from rayserve_app.bench import server_timing
from rayserve_app.bench.figures.figure import Figure
from rayserve_app.bench.figures.packed_stream import ask, median_stages, ten_jpegs
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.large_answers import LargeAnswer, LargeAnswerClient
from rayserve_app.bench.load import Target
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort
from rayserve_app.codecs import packed_jpeg

NAME: Final = "yolov3"
MOST_PERCENT: Final = 15.0
LEAST_REQUESTS: Final = 3


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    target = Target.post(
        instance.url("/yolov3/invocations"),
        packed_jpeg.encode(ten_jpegs()),
        "application/octet-stream",
        accept="application/x-npy",
    )
    with LargeAnswerClient(target) as client:
        answers = await asyncio.to_thread(_repeat, client, effort.rounds * effort.seconds)
    details = {"requests": float(len(answers))}
    details["wall_ms"] = median(answer.seconds for answer in answers) * 1e3
    details |= {f"server_{name}_ms": value for name, value in median_stages(answers).items()}
    percent = median(map(_overhead_percent, answers))
    bound = Bound("at most", MOST_PERCENT)
    return [Row(NAME, "neither decode nor predict", percent, "% of wall", bound, details)]


def _repeat(client: LargeAnswerClient, seconds: float) -> list[LargeAnswer]:
    ask(client)
    answers: list[LargeAnswer] = []
    stop_at = perf_counter() + seconds
    while len(answers) < LEAST_REQUESTS or perf_counter() < stop_at:
        answers.append(ask(client))
    return answers


def _overhead_percent(received: LargeAnswer) -> float:
    stages = server_timing.stages(received.answer.header("server-timing"))
    work_s = (stages["decode"] + stages["predict"]) / 1e3
    return 100 * (1 - work_s / received.seconds)


FIGURE: Final = Figure(NAME, ("yolov3",), measure)
