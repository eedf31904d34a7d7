"""The load generator against real servers on this machine's loopback, and what makes the report."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from rayserve_app.bench import pictures
from rayserve_app.bench.applications import build_config
from rayserve_app.bench.echo import echo_server
from rayserve_app.bench.figures import FIGURES
from rayserve_app.bench.framework_loop import load_model, measure
from rayserve_app.bench.large import LargeAnswerClient, server_timing
from rayserve_app.bench.load import (
    Answer,
    Load,
    Target,
    arrivals,
    closed_loop,
    open_loop,
    send_once,
)
from rayserve_app.bench.report import Bound, Report, Row, number
from rayserve_app.bench.rounds import interleave, median_ratio
from rayserve_app.bench.runner import choose
from rayserve_app.codecs import image
from rayserve_app.errors import ConfigurationError

APP_YAML = Path(__file__).parents[1] / "configs" / "app.yaml"
MODELS = Path("nowhere")
"""Where a test needs no models built."""

OK = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
    b"Server-Timing: decode;dur=1.5, predict;dur=2\r\n\r\nok"
)
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class Server:
    """Answers what `answer` says of the request's number; None closes the connection."""

    def __init__(self, answer: Callable[[int], bytes | None]) -> None:
        self.requests = 0
        self.connections = 0
        self.bodies: set[bytes] = set()
        self.stall_s = 0.0
        """How long the first request waits, and all others that come meanwhile."""
        self._answer = answer
        self._stalled = asyncio.Event()

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Target]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        asyncio.get_running_loop().call_later(self.stall_s, self._stalled.set)
        port = server.sockets[0].getsockname()[1]
        async with server:
            yield Target.post(f"http://127.0.0.1:{port}/path", b"body", "text/plain")
            self._stalled.set()
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"POST /path HTTP/1.1\r\n")
                self.bodies.add(await reader.readexactly(4))
                self.requests += 1
                answer = self._answer(self.requests)
                await self._stalled.wait()
                if answer is None:
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def test_closed_loop_counts_every_answer() -> None:
    server = Server(lambda _: OK)
    async with server.run() as target:
        load = await closed_loop(target, connections=3, seconds=0.2)
    assert len(load.latencies) == server.requests > 3
    assert (load.errors, load.unanswered, server.connections) == (0, 0, 3)
    assert server.bodies == {b"body"}
    assert load.rate == pytest.approx(server.requests / load.seconds)
    assert 0.2 <= load.seconds < 0.5
    assert 0 < load.generator_cpu < 1.1


async def test_closed_loop_counts_other_statuses_as_errors() -> None:
    server = Server(lambda number: OK if number % 2 else BUSY)
    async with server.run() as target:
        load = await closed_loop(target, connections=1, seconds=0.1)
    assert load.errors == server.requests // 2 > 0
    assert len(load.latencies) + load.errors == server.requests


async def test_closed_loop_connects_anew_when_the_server_closes() -> None:
    server = Server(lambda number: None if number == 2 else OK)
    async with server.run() as target:
        load = await closed_loop(target, connections=1, seconds=0.1)
    assert (load.errors, server.connections) == (1, 2)
    assert len(load.latencies) == server.requests - 1 > 1


async def test_an_answer_in_pieces_is_read_to_its_end() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in (b"HTTP/1.1 200 O", b"K\r\ncontent-length: 4\r\n", b"\r\na", b"bc", b"d"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        answer = await send_once(Target.post(f"http://127.0.0.1:{port}/", b"", "text/plain"))
    assert (answer.status, answer.body_bytes) == (200, 4)
    assert answer.header("Content-Length") == "4"
    assert answer.header("absent") == ""


async def test_open_loop_offers_its_rate_whatever_comes_back() -> None:
    server = Server(lambda number: OK if number % 4 else BUSY)
    async with server.run() as target:
        load = await open_loop(target, rate=200, seconds=0.4)
    assert server.requests == 80
    assert (len(load.latencies), load.errors, load.unanswered) == (60, 20, 0)


async def test_open_loop_counts_latency_from_the_intended_time() -> None:
    """A stall of 0.3 s delays what was due during it by 0.15 s on average, although only one
    request was ever sent into it."""
    server = Server(lambda _: OK)
    server.stall_s = 0.3
    async with server.run() as target:
        load = await open_loop(target, rate=100, seconds=0.3, poisson=False, most=1)
    assert len(load.latencies) == 30
    assert 0.1 < sum(load.latencies) / 30 < 0.25
    assert load.percentile(100) > 0.25


async def test_open_loop_leaves_what_is_not_answered_in_time() -> None:
    server = Server(lambda _: OK)
    server.stall_s = 60
    async with server.run() as target:
        load = await open_loop(target, rate=50, seconds=0.2, grace_s=0.1, most=4)
    assert (load.latencies, load.errors, load.unanswered) == ([], 0, 10)
    assert 0.3 <= load.seconds < 0.6
    assert load.rate == 0
    assert load.percentile(50) == float("inf")


def test_arrivals_are_as_many_as_the_rate_says() -> None:
    times = arrivals(200, 3.0, seed=1)
    assert len(times) == 600
    assert times == sorted(times) == arrivals(200, 3.0, seed=1) != arrivals(200, 3.0, seed=2)
    assert 0 <= times[0] < times[-1] <= 3.0
    assert arrivals(4, 1.0, seed=None) == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (25, 1), (26, 2), (50, 2), (99, 4), (100, 4)]
)
def test_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert Load([3.0, 1.0, 4.0, 2.0], 0, 0, 1.0, 0.0).percentile(percent) == expected


def test_echo_server_reads_whole_requests() -> None:
    async def run() -> Load:
        with echo_server() as url:
            target = Target.post(f"{url}/", b"x" * 300_000, "image/jpeg")
            return await closed_loop(target, connections=2, seconds=0.2)

    load = asyncio.run(run())
    assert load.errors == 0
    assert len(load.latencies) > 2


def test_large_answers_are_read_over_one_connection() -> None:
    with echo_server() as url, LargeAnswerClient(Target.post(f"{url}/", b"x", "a/b")) as client:
        answers = [client.send() for _ in range(3)]
    assert [(each.answer.status, each.answer.body_bytes) for each in answers] == [(200, 9)] * 3
    assert all(each.seconds > 0 for each in answers)


def test_server_timing_is_read_by_stage() -> None:
    head = OK.partition(b"\r\n\r\n")[0]
    assert server_timing(Answer(200, head, 2)) == {"decode": 1.5, "predict": 2.0}


async def test_two_things_are_measured_in_turn() -> None:
    called = []

    async def first() -> float:
        called.append("A")
        return 2.0

    async def second() -> float:
        called.append("B")
        return 4.0

    assert await interleave(3, first, second) == [(2.0, 4.0)] * 3
    assert "".join(called) == "ABABAB"


def test_ratio_is_the_median_over_the_rounds() -> None:
    assert median_ratio([(1.0, 2.0), (9.0, 3.0), (4.0, 4.0)]) == 1.0


def test_pictures_have_the_stated_sizes() -> None:
    assert len(pictures.png(68)) == pytest.approx(10_000, rel=0.05)
    assert len(pictures.jpeg(512)) == pytest.approx(130_000, rel=0.05)
    assert pictures.jpeg(512, 1) == pictures.jpeg(512, 1) != pictures.jpeg(512, 2)
    assert image.decode(pictures.png(68), max_pixels=10**6).shape == (68, 68, 3)


def test_config_takes_models_from_the_yaml_and_peers_from_the_bench() -> None:
    config = build_config({"yolov3", "minimal"}, APP_YAML, 1234, MODELS)
    assert config["http_options"] == {"host": "127.0.0.1", "port": 1234}
    minimal, yolov3 = config["applications"]
    assert minimal["route_prefix"] == "/minimal"
    assert yolov3 in yaml.safe_load(APP_YAML.read_text())["applications"]


def test_all_applications_together_fit_on_two_cores() -> None:
    names = {name for figure in FIGURES.values() for name in figure.applications}
    applications = build_config(names, APP_YAML, 1234, MODELS)["applications"]
    shares = [
        deployment["ray_actor_options"]["num_cpus"] * deployment.get("num_replicas", 1)
        for application in applications
        for deployment in application["deployments"]
    ]
    assert len(shares) == len(names)
    assert sum(shares) <= 1.5


def test_a_declared_application_can_be_had_with_two_replicas() -> None:
    declared = yaml.safe_load(APP_YAML.read_text())["applications"]
    (once,) = (each for each in declared if each["name"] == "resnet-embedding")
    (twice,) = build_config({"resnet-embedding-twice"}, APP_YAML, 1234, MODELS)["applications"]
    assert twice["args"] == once["args"]
    assert twice["route_prefix"] == "/resnet-embedding-twice"
    (deployment,) = twice["deployments"]
    assert deployment["num_replicas"] == 2
    runtime_env = once["deployments"][0]["ray_actor_options"]["runtime_env"]
    assert deployment["ray_actor_options"]["runtime_env"] == runtime_env


def test_a_loop_counts_the_items_of_a_declared_model(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text(
        "applications: [{name: mean, import_path: 'deployments.closure:build', args: {model: "
        "{function: 'tests.serve.closures:mean_colors', input: {type: image, size: [8, 8]}}}}]"
    )
    model = load_model(path, "mean")
    pace = measure(model, 4, seconds=0.05)
    model.close()
    assert pace.per_s > 100
    assert pace.per_s == pytest.approx(4 / (pace.p50_ms / 1e3), rel=0.9)


def test_an_application_that_is_not_declared_is_told(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("applications: []")
    with pytest.raises(ConfigurationError, match=r"app\.yaml has no application 'yolov3'"):
        build_config({"yolov3"}, path, 1234, MODELS)


def test_figures_are_chosen_by_name_in_their_own_order() -> None:
    assert [figure.name for figure in choose(["yolov3", "memory"])] == ["memory", "yolov3"]
    assert choose([]) == list(FIGURES.values())
    with pytest.raises(ConfigurationError, match=r"expected start or .*, got 'speed'"):
        choose(["speed"])


@pytest.fixture
def report() -> Report:
    rows = [
        Row("speed", "c=1", 0.849, "x", Bound("at least", 0.8), {"a_ms": 12.34, "b_ms": 1234.5}),
        Row("memory", "idle", 61.0, "MB", Bound("at most", 60)),
        Row("speed", "stock", float("inf"), "ms"),
    ]
    return Report({"machine": "2 cores"}, "bench", 5, 3.0, rows, {"yolov3": "E: why"})


def test_table_says_what_was_reached(report: Report) -> None:
    assert report.to_text().splitlines() == [
        "$ bench",
        "machine: 2 cores",
        "rounds: 5, seconds: 3",
        "",
        "figure  case   measured  target        reached",
        "speed   c=1    0.85 x    at least 0.8  yes",
        "    a_ms=12.3  b_ms=1234",
        "memory  idle   61 MB     at most 60    no",
        "speed   stock  none ms",
        "yolov3 failed: E: why",
    ]


def test_json_holds_the_same_as_the_table(report: Report) -> None:
    document = json.loads(report.to_json())
    assert document["machine"] == {"machine": "2 cores"}
    assert (document["rounds"], document["seconds"]) == (5, 3.0)
    assert document["failures"] == {"yolov3": "E: why"}
    first, second, third = document["rows"]
    assert first["target"] == {"kind": "at least", "value": 0.8}
    assert first["details"] == {"a_ms": 12.34, "b_ms": 1234.5}
    assert [row["is_reached"] for row in document["rows"]] == [True, False, None]
    assert (second["unit"], third["measured"], third["target"]) == ("MB", None, None)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.849, "0.85"), (189.94, "189.9"), (1234.5, "1234"), (0.0, "0"), (float("inf"), "none")],
)
def test_numbers_have_three_digits_or_more(value: float, text: str) -> None:
    assert number(value) == text
