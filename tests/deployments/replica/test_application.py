"""What a model becomes for Serve, and `@serve.batch` behind the batcher's interface."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import cloudpickle
import numpy as np
import pytest
from ray import serve
from ray.serve import Application, Deployment
from ray.serve._private.config import DeploymentConfig

from deployments import gateway
from deployments.replica import application
from deployments.replica.application import ModelDeployment, StockBatcher, build_application
from rayserve_app.errors import DeadlineExceeded, DecodeError, ModelNotReady
from rayserve_app.inference.backend import Backend
from rayserve_app.metrics.recorder import Recorder
from rayserve_app.process.timing import Timing
from rayserve_app.settings.model import BatchingSettings, ModelSettings
from rayserve_app.types import Item, Outputs, Row


class Doubler(Backend):
    """Doubles its items, unless one of them says what to do instead."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []

    def load(self) -> None:
        return

    def predict(self, items: Sequence[Item]) -> Outputs:
        words = [str(item) for item in items]
        self.batches.append(words)
        if "raise" in words:
            raise ValueError("no such word")
        if "short" in words:
            return words[:-1]
        if "named" in words:
            return {"length": np.array([len(word) for word in words])}
        if "sleep" in words:
            time.sleep(0.3)
        return [word * 2 for word in words]


@pytest.fixture(autouse=True)
def replica(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`@serve.batch` asks its replica for this alone, to warn of batches that never fill."""
    context = SimpleNamespace(_deployment_config=DeploymentConfig(max_ongoing_requests=100))
    monkeypatch.setattr(serve, "get_replica_context", lambda: context)
    return context


class Bound(NamedTuple):
    batcher: StockBatcher
    backend: Backend


def create_batcher(backend: Backend, *, recorder: Recorder | None = None, **settings: Any) -> Bound:
    return Bound(StockBatcher(BatchingSettings(**settings), recorder or Recorder()), backend)


async def submit(bound: Bound, *words: str, timeout_s: float = 10) -> list[Any]:
    batcher, backend = bound
    results = await batcher.submit(words, backend, timeout_s=timeout_s, timing=Timing())
    return [result.value if isinstance(result, Row) else result for result in results]


async def test_results_of_the_stock_batcher_come_in_the_order_of_the_items() -> None:
    backend, recorder = Doubler(), Recorder()
    batcher = create_batcher(
        backend, recorder=recorder, max_batch_size=3, batch_wait_timeout_s=0.05
    )
    assert await submit(batcher, *"abcde") == ["aa", "bb", "cc", "dd", "ee"]
    assert backend.batches == [["a", "b", "c"], ["d", "e"]]
    assert (recorder.batch_items.count, recorder.batch_items.sum) == (2, 5)


async def test_requests_share_the_stock_batchers_batches() -> None:
    backend = Doubler()
    batcher = create_batcher(backend, max_batch_size=4, batch_wait_timeout_s=5)
    async with asyncio.timeout(3):
        first, second = await asyncio.gather(submit(batcher, *"ab"), submit(batcher, *"cd"))
    assert (first, second) == (["aa", "bb"], ["cc", "dd"])
    assert backend.batches == [["a", "b", "c", "d"]]


async def test_named_outputs_of_the_stock_batcher_are_rows() -> None:
    batcher = create_batcher(Doubler(), max_batch_size=2, batch_wait_timeout_s=5)
    assert await submit(batcher, "named", "ab") == [{"length": 5}, {"length": 2}]


async def test_a_wrong_count_is_an_error_of_every_item_of_the_stock_batch() -> None:
    batcher = create_batcher(Doubler(), max_batch_size=2, batch_wait_timeout_s=0.05)
    for error in await submit(batcher, "short", "a"):
        assert "expected 2, one per item of the batch, got 1" in str(error)
    assert await submit(batcher, "a", "b") == ["aa", "bb"]


async def test_what_a_model_raises_fails_the_whole_stock_batch() -> None:
    """As it does with `@serve.batch`: nothing is tried in halves."""
    backend = Doubler()
    batcher = create_batcher(backend, max_batch_size=2, batch_wait_timeout_s=5)
    pending = [asyncio.ensure_future(submit(batcher, word)) for word in ("raise", "a")]
    results = [result for each in pending for result in await each]
    assert all("ValueError: no such word" in str(result) for result in results)
    assert len(results) == 2
    assert backend.batches == [["raise", "a"]]
    assert await submit(batcher, "a", "b") == ["aa", "bb"]


class Picky(Doubler):
    def predict(self, items: Sequence[Any]) -> Any:
        if "bad" in items:
            raise DecodeError("The image cannot be read")
        return super().predict(items)


async def test_what_a_client_is_at_fault_for_is_told_to_that_one_alone() -> None:
    batcher = create_batcher(Picky(), max_batch_size=3, batch_wait_timeout_s=5)
    first, error, last = await submit(batcher, "a", "bad", "b")
    assert (first, last) == ("aa", "bb")
    assert isinstance(error, DecodeError)


async def test_two_models_of_one_stock_batcher_never_meet() -> None:
    first, second = Doubler(), Doubler()
    bound = create_batcher(first, max_batch_size=2, batch_wait_timeout_s=0.05)
    results = await asyncio.gather(
        submit(bound, "a"), submit(bound._replace(backend=second), "b"), submit(bound, "c")
    )
    assert results == [["aa"], ["bb"], ["cc"]]
    assert first.batches == [["a", "c"]]
    assert second.batches == [["b"]]


async def test_the_stock_batcher_keeps_the_deadline() -> None:
    batcher = create_batcher(Doubler(), max_batch_size=1)
    with pytest.raises(DeadlineExceeded, match="within its deadline"):
        await submit(batcher, "sleep", timeout_s=0.05)
    assert await submit(batcher, "a") == ["aa"]


def build(**settings: Any) -> Application:
    model = ModelSettings(input={"type": "string"}, **settings)  # type: ignore[arg-type]
    return build_application(model, partial(Doubler))


def bound(app: Application) -> Deployment:
    deployment: Deployment = app._bound_deployment
    return deployment


BOTH = pytest.mark.parametrize(
    "app", [build(), gateway.build({"gateway": {}})], ids=["model", "gateway"]
)


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, 1000 + 10),
        ({"batching": {"max_batch_size": 64, "max_concurrent_batches": 2}}, 32 * 64 + 2 * 64),
        ({"limits": {"max_queued_items": 7}, "batching": {"max_batch_size": 4}}, 7 + 4),
    ],
)
def test_serve_admits_what_the_models_queue_and_batches_hold(
    settings: dict[str, Any], most: int
) -> None:
    deployment = bound(build(**settings))
    assert deployment.name == "Model"
    assert deployment.max_ongoing_requests == most
    assert deployment.max_queued_requests == most


@BOTH
def test_a_sick_replica_is_found_soon(app: Application) -> None:
    config = bound(app)._deployment_config
    assert config.health_check_period_s == application.HEALTH_CHECK_PERIOD_S
    assert config.health_check_timeout_s == application.HEALTH_CHECK_TIMEOUT_S
    # Three failed checks in a row, and each may time out.
    assert 3 * (config.health_check_period_s + config.health_check_timeout_s) < 60


@BOTH
def test_a_new_replica_is_warm_before_the_old_one_drains(app: Application) -> None:
    """Serve's default, 0, stops the one replica first; it rounds what is above up to one more."""
    assert bound(app)._deployment_config.max_surge_percent == 1


class Replica(ModelDeployment):
    """One whose end nobody awaits, as Serve does."""

    def __del__(self) -> None:
        return


class Reluctant(Doubler):
    """Takes until it is told to go on to predict for the first time."""

    go_on = threading.Event()

    def predict(self, items: Sequence[Item]) -> Outputs:
        self.go_on.wait(10)
        return [0] * len(items)


@pytest.fixture
def reluctant(replica: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> ModelDeployment:
    """A replica's deployment, not constructed yet, whose model warms up until `go_on` is set."""
    replica.app_name, replica.deployment, replica.replica_tag = "a", "Model", "x1"
    for name in ("set_up_logs", "bind_threads", "_counter"):
        monkeypatch.setattr(application, name, MagicMock())
    monkeypatch.setattr(application, "_is_served", lambda _: False)
    Reluctant.go_on.clear()
    return Replica.__new__(Replica)


async def construct(deployment: ModelDeployment, latency_ms: float) -> None:
    settings = ModelSettings.model_validate(
        {
            "input": {"type": "image", "size": [1, 1]},
            "deadline": {"latency_ms": latency_ms},
        }
    )
    await deployment.__init__(settings, Reluctant)  # type: ignore[misc]


@pytest.mark.parametrize(("latency_ms", "most_s"), [(50, 60), (3000, 60), (4000, 80)])
async def test_a_warm_up_may_take_20_deadlines_and_at_least_a_minute(
    reluctant: ModelDeployment, monkeypatch: pytest.MonkeyPatch, latency_ms: float, most_s: float
) -> None:
    now = [1000.0]
    monkeypatch.setattr(application, "perf_counter", lambda: now[0])
    await construct(reluctant, latency_ms)
    now[0] += most_s - 1
    await reluctant.check_health()
    now[0] += 2
    with pytest.raises(ModelNotReady, match="hangs in its warm-up"):
        await reluctant.check_health()
    Reluctant.go_on.set()
    await reluctant._warm_up
    await reluctant.check_health()


async def test_a_replica_that_joins_others_is_ready_when_it_is_warm(
    reluctant: ModelDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "_is_served", lambda _: True)
    constructing = asyncio.create_task(construct(reluctant, 50))
    _, pending = await asyncio.wait([constructing], timeout=0.3)
    assert pending
    Reluctant.go_on.set()
    await constructing
    assert reluctant.model.is_warm


async def test_a_replica_that_joins_others_does_not_hang_for_ever(
    reluctant: ModelDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "_is_served", lambda _: True)
    monkeypatch.setattr(application, "LEAST_WARM_UP_S", 0.05)
    with pytest.raises(ModelNotReady, match="hangs in its warm-up"):
        await construct(reluctant, 1)
    Reluctant.go_on.set()


def test_a_replica_may_answer_what_it_has_taken_before_it_stops() -> None:
    deployment = bound(build(deadline={"latency_ms": 45_000}))
    assert deployment._deployment_config.graceful_shutdown_timeout_s > 45


def test_what_a_replica_is_made_from_travels() -> None:
    """The backend is created in the replica, from settings that Serve pickles."""
    deployment = bound(build(name="words", version="3"))
    settings, create_backend = cloudpickle.loads(cloudpickle.dumps(deployment.init_args))
    assert settings == deployment.init_args[0]
    assert settings.version == "3"
    assert isinstance(create_backend(), Doubler)
