"""The jobs of the benchmark: what is sent, and what is made of the numbers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rayserve_app.bench import cuda, pictures
from rayserve_app.bench.applications import build_config
from rayserve_app.bench.figures import (
    FIGURES,
    batching,
    cnn,
    image_example,
    mixed_sizes,
    packed_stream,
    slow_neighbour,
)
from rayserve_app.bench.framework_loop import Pace
from rayserve_app.bench.large_answers import LargeAnswer
from rayserve_app.bench.load import Answer, Load
from rayserve_app.bench.models import HEADS_BYTES, corner_colors
from rayserve_app.bench.report import Bound
from rayserve_app.bench.saturation import Saturation
from rayserve_app.bench.summary import stages, summary

APP_YAML = Path(__file__).parents[2] / "configs" / "app.yaml"


def load(rate: int, latency_ms: float = 10, timings: Sequence[str] = ()) -> Load:
    """Return one second's load."""
    return Load([latency_ms / 1e3] * rate, 0, 0, 1.0, 0.1, timings)


def test_a_summary_has_the_medians_of_the_rounds() -> None:
    latencies = [float(index) for index in range(1, 1001)]
    even = Load(latencies, 0, 0, 10.0, 0.0)
    assert summary([even, load(50), load(150)], "x_") == {
        "x_per_s": 100,
        "x_p50_ms": 10,
        "x_p90_ms": 10,
        "x_p99_ms": 10,
    }
    assert summary([even]) == {
        "per_s": 100,
        "p50_ms": 500_000,
        "p90_ms": 900_000,
        "p99_ms": 990_000,
        "p999_ms": 999_000,
    }


def test_stages_are_those_that_every_round_has() -> None:
    first = load(1, timings=["decode;dur=1, predict;dur=5"])
    second = load(1, timings=["decode;dur=2, encode;dur=3"])
    assert stages([first, second]) == {"server_decode_ms": 1.5}
    assert stages([first], "") == {"decode_ms": 1, "predict_ms": 5}
    assert stages([first, load(1)]) == {}


def test_an_image_is_compared_with_the_minimal_ingress_and_base64_with_the_image() -> None:
    loads = [[load(90), load(80)], [load(100), load(100)], [load(72), load(72)]]
    raw, packed = image_example.size_rows("130 KB JPEG", 16, loads)
    assert (raw.case, raw.unit) == ("130 KB JPEG, c=16", "x minimal")
    assert raw.measured == pytest.approx(0.85)
    assert (raw.target, raw.is_reached) == (Bound("at least", 0.9), False)
    assert packed.case == "130 KB JPEG as base64 JSON, c=16"
    assert packed.measured == pytest.approx(0.85)
    assert (packed.unit, packed.target) == ("x raw", Bound("at least", 0.8))
    assert (raw.details["ours_per_s"], raw.details["minimal_per_s"]) == (85, 100)


def test_a_batcher_has_a_goal_for_each_rate() -> None:
    loads = [load(199, 91), load(196, 95), load(190, 89)]
    served, p50 = batching.rows_at("batching", 200, "ours", loads, batching.RATES[200])
    assert (served.case, served.measured, served.is_reached) == ("200/s, ours", 196, True)
    assert (p50.case, p50.is_reached) == ("200/s, ours, p50", False)
    assert p50.measured == pytest.approx(91)


def test_the_packed_stream_is_compared_with_the_floor_of_its_round() -> None:
    def answer(seconds: float) -> LargeAnswer:
        head = b'HTTP/1.1 200 OK\r\nServer-Timing: decode;dur=12, predict;dur=1;desc="10 items"'
        return LargeAnswer(Answer(200, head, 0), seconds, 0.02)

    floor = packed_stream.FloorTime(0.01, 0.03)
    rounds = [
        packed_stream.Round([answer(seconds)], [answer(0.03)], [floor])
        for seconds in (0.05, 0.06, 0.08)
    ]
    row = packed_stream.time_row("case", rounds)
    assert row.measured == pytest.approx(1.5)
    assert row.target == Bound("at most", 1.3)
    assert row.details == pytest.approx(
        {
            "served_ms": 60,
            "bare_ms": 30,
            "floor_ms": 40,
            "floor_decode_ms": 10,
            "floor_send_ms": 30,
            "client_cpu_ms": 20,
            "server_decode_ms": 12,
            "server_predict_ms": 1,
        }
    )


def test_memory_is_counted_in_replies_above_idle() -> None:
    row = packed_stream.memory_row("case", 100_000_000, 100_000_000 + 2 * HEADS_BYTES)
    assert (row.measured, row.target) == (2, Bound("at most", 2.5))
    assert row.details["idle_mb"] == 100


def test_mixed_pictures_have_as_many_pixels_as_those_of_one_size() -> None:
    sides = pictures.MIXED_SIDES
    assert sum(side**2 for side in sides) == len(sides) * pictures.SIDE**2
    assert len(set(sides)) > 4


def test_mixed_sizes_are_compared_with_one_size() -> None:
    row = mixed_sizes.row([(load(90), load(100)), (load(90), load(90)), (load(80), load(100))])
    assert (row.measured, row.target) == (0.9, Bound("at least", 0.9))
    assert row.is_reached
    assert (row.details["mixed_per_s"], row.details["same_per_s"]) == (90, 100)


def test_a_colour_is_that_of_the_first_pixel() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[1, 0, 0] = 1, 2, 3
    assert corner_colors(images) == [[0, 0, 0], [1, 2, 3]]


def test_a_neighbour_is_judged_by_what_it_does_to_the_99th_percentile() -> None:
    def measured(alone_ms: float, beside_ms: float) -> slow_neighbour.Round:
        alone, beside = load(100, alone_ms), load(100, beside_ms)
        return slow_neighbour.Round(alone, beside, load(18, 40), 0.3, 0.9)

    row = slow_neighbour.row([measured(2, 3), measured(3, 3), measured(1, 4)])
    assert row.measured == pytest.approx(1.5)
    assert row.spread == pytest.approx((1, 4))
    assert row.target == Bound("at most", 1.5)
    assert row.details["slow_per_s"] == 18
    assert row.details["alone_p99_ms"] == pytest.approx(2)
    assert (row.details["alone_busy_cores"], row.details["beside_busy_cores"]) == (0.3, 0.9)


def test_latency_at_half_of_saturation_is_counted_in_batches() -> None:
    pairs = [(load(10, latency_ms), Pace(40, 200)) for latency_ms in (300, 400, 500)]
    steps = {36.0: load(36), 45.0: load(40)}
    row = cnn.half_row("JPEG", pairs, Saturation(36.0, steps), has_bounds=True)
    assert (row.case, row.measured, row.unit) == ("JPEG, p99", 2.5, "x full batch")
    assert (row.target, row.is_reached) == (Bound("at most", 3), True)
    assert (row.details["saturation_per_s"], row.details["offered_per_s"]) == (36, 18)
    assert row.saturation is not None
    assert cnn.half_row("JPEG", pairs, Saturation(36.0, {}), has_bounds=False).target is None


def test_a_machine_without_a_gpu_has_no_figure_of_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda.device_name.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cuda.device_name() is None
    cuda.device_name.cache_clear()


def test_the_models_of_a_gpu_share_one_and_differ_in_where_images_are_normalised() -> None:
    names = cnn.FIGURE.gpu_applications
    applications = build_config(names, APP_YAML, 1234, Path("models"))["applications"]
    deployments = [deployment for each in applications for deployment in each["deployments"]]
    assert sum(each["ray_actor_options"]["num_gpus"] for each in deployments) == 1
    pixels, floats = (each["args"]["model"] for each in applications)
    assert (pixels["normalize_on_device"], floats["normalize_on_device"]) == (True, False)
    assert pixels["input"] == floats["input"]


def test_nobody_looks_for_a_gpu_before_something_is_measured() -> None:
    script = """
import rayserve_app.bench.runner
from rayserve_app.bench.cuda import device_name
print(device_name.cache_info().misses)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "0\n"


def test_a_neighbour_computes_on_one_core() -> None:
    (application,) = build_config({"slow-texture"}, APP_YAML, 1234, Path("models"))["applications"]
    assert application["args"]["model"]["threads"] == {"compute": 1, "decode": 1}


def test_every_job_has_a_figure() -> None:
    assert {
        "image-example",
        "cnn",
        "packed-stream",
        "batching",
        "mixed-sizes",
        "slow-neighbour",
        "gateway",
    } <= FIGURES.keys()
