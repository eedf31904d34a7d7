"""Serve's own accounts of requests that its wrapper does not see, kept with Serve's own classes."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Iterator
from statistics import mean
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from ray.serve._private.common import RequestMetadata, RequestProtocol
from ray.serve._private.http_util import _apply_middlewares
from ray.serve._private.rolling_window import RollingWindowAccumulator, RollingWindowMax
from ray.serve._private.utils import Semaphore
from ray.serve.schema import LoggingConfig
from starlette.middleware import Middleware

from deployments.internals import accounts as module
from deployments.internals.accounts import SAMPLES, TRIAL, ServeAccounts, find_accounts
from deployments.internals.middleware import Ingress


class Metrics:
    """What is used of Serve's `ReplicaMetricsManager`, which keeps these until it reports them."""

    def __init__(self) -> None:
        self.ongoing = 0
        self._cached_request_counter: Any = defaultdict(int)
        self._cached_error_counter: Any = defaultdict(int)
        self._cached_latencies: Any = defaultdict(deque)
        self._cached_ingress_request_counter: Any = defaultdict(lambda: defaultdict(int))
        self._cached_ingress_request_error_counter: Any = defaultdict(lambda: defaultdict(int))
        self._cached_deployment_request_error_counter: Any = defaultdict(lambda: defaultdict(int))
        self._cached_ingress_processing_latencies: Any = defaultdict(lambda: defaultdict(deque))
        self._user_code_time_accumulator = RollingWindowAccumulator(60)
        self._max_processing_latency_trackers: Any = defaultdict(lambda: RollingWindowMax(60))

    def inc_num_ongoing_requests(self, metadata: RequestMetadata) -> None:
        assert metadata.is_direct_ingress
        assert metadata.protocol == RequestProtocol.HTTP
        self.ongoing += 1

    def dec_num_ongoing_requests(self, metadata: RequestMetadata) -> None:
        self.ongoing -= 1

    def ingress(self, counter: str) -> list[tuple[dict[str, str], Any]]:
        """Return tags and values of one of those by protocol."""
        by_protocol = getattr(self, counter)
        assert set(by_protocol) <= {RequestProtocol.HTTP}
        return [(dict(tags), value) for tags, value in by_protocol[RequestProtocol.HTTP].items()]


class Replica:
    """What is used of Serve's replica, with two slots."""

    def __init__(self) -> None:
        self._deployment_config = SimpleNamespace(logging_config=None)
        self._deployment_id = SimpleNamespace(app_name="shop", name="Model")
        self._http_options = SimpleNamespace(request_timeout_s=None)
        self._metrics_manager = Metrics()
        self._route_prefix = "/shop"
        self._semaphore = Semaphore(lambda: 2)
        self._user_callable_wrapper = SimpleNamespace(_run_user_code_in_separate_thread=False)

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        return


@pytest.fixture(autouse=True)
def no_access_log() -> Iterator[None]:
    level = module.logger.level
    module.logger.setLevel(logging.WARNING)
    yield
    module.logger.setLevel(level)


@pytest.fixture
def replica() -> Replica:
    return Replica()


@pytest.fixture
def accounts(replica: Replica) -> ServeAccounts:
    return ServeAccounts(replica)


def test_the_replica_is_found_behind_what_serve_and_uvicorn_wrap_around_it(
    replica: Replica,
) -> None:
    app = _apply_middlewares(replica.asgi, [Middleware(Ingress)])
    config = uvicorn.Config(lambda: app, factory=True, log_config=None)
    config.load()
    found = find_accounts(config.loaded_app)
    assert found is not None
    assert found.prefix == "/shop"


def test_where_serve_is_not_as_known_there_are_none(
    replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    del replica._metrics_manager._cached_latencies
    with caplog.at_level(logging.WARNING):
        assert find_accounts(replica.asgi) is None
    assert "_cached_latencies" in caplog.text


async def test_nothing_is_counted_before_the_first_request(replica: Replica) -> None:
    accounts = find_accounts(replica.asgi)
    assert accounts is not None
    accounts.flush()
    metrics = replica._metrics_manager
    assert metrics.ongoing == 0
    assert not replica._semaphore._value
    assert [name for name in TRIAL if getattr(metrics, name)] == []
    assert not metrics._max_processing_latency_trackers
    assert metrics._user_code_time_accumulator.get_total() == 0


def test_an_app_in_an_event_loop_of_its_own_needs_serve(
    replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    replica._user_callable_wrapper._run_user_code_in_separate_thread = True
    with caplog.at_level(logging.WARNING):
        assert find_accounts(replica.asgi) is None
    assert "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD" in caplog.text


def test_a_function_is_no_replica() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        return

    assert find_accounts(app) is None


async def test_a_request_holds_a_slot_while_it_runs(
    replica: Replica, accounts: ServeAccounts
) -> None:
    for ongoing in (1, 2):
        assert accounts.are_enough
        await accounts.begin()
        assert replica._metrics_manager.ongoing == ongoing
    assert not accounts.are_enough
    accounts.end("POST", 200, perf_counter(), None)
    assert accounts.are_enough
    assert replica._metrics_manager.ongoing == 1


TAGS = {"route": "/shop", "method": "POST", "application": "shop"}


async def answer(accounts: ServeAccounts, status: int, error: str | None = None) -> None:
    await accounts.begin()
    accounts.end("POST", status, perf_counter() - 0.25, error)


async def test_answered_requests_are_counted(replica: Replica, accounts: ServeAccounts) -> None:
    metrics = replica._metrics_manager
    for status in (200, 200, 404):
        await answer(accounts, status)
    accounts.flush()
    assert metrics._cached_request_counter == {"/shop": 3}
    assert metrics._cached_error_counter == {}
    (longest,) = metrics._max_processing_latency_trackers.values()
    assert 250 <= longest.get_max() < 500
    assert 750 <= metrics._user_code_time_accumulator.get_total() < 1500
    assert metrics.ingress("_cached_ingress_request_counter") == [
        ({**TAGS, "status_code": "200"}, 2),
        ({**TAGS, "status_code": "404"}, 1),
    ]
    error = {**TAGS, "error_code": "404"}
    assert metrics.ingress("_cached_ingress_request_error_counter") == [(error, 1)]
    assert metrics.ingress("_cached_deployment_request_error_counter") == [
        ({**error, "deployment": "Model"}, 1)
    ]


async def test_a_request_that_was_not_answered_is_an_error_without_a_status(
    replica: Replica, accounts: ServeAccounts
) -> None:
    await answer(accounts, 0, "CancelledError")
    accounts.flush()
    metrics = replica._metrics_manager
    assert metrics._cached_error_counter == {("/shop", "CancelledError"): 1}
    assert metrics._cached_request_counter == {}
    assert metrics.ingress("_cached_ingress_request_counter") == []


async def test_serve_gets_every_count_and_a_sample_of_the_latencies(
    replica: Replica, accounts: ServeAccounts
) -> None:
    for number in range(1000):
        await accounts.begin()
        accounts.end("POST", 200, perf_counter() - number, None)
    accounts.flush()
    metrics = replica._metrics_manager
    assert metrics._cached_request_counter == {"/shop": 1000}
    latencies = metrics._cached_latencies["/shop"]
    assert len(latencies) == SAMPLES
    # The mean of 64 of 1000 even ones: 500 s, and six times its error of 36.
    assert 284_000 < mean(latencies) < 716_000
    ((_, of_ingress),) = metrics.ingress("_cached_ingress_processing_latencies")
    assert of_ingress == latencies


async def test_kinds_of_requests_share_the_sample(
    replica: Replica, accounts: ServeAccounts
) -> None:
    """A client that asks in many ways makes Serve's report take no longer."""
    for _ in range(2 * SAMPLES):
        for status in (200, 404, 413, 415):
            await answer(accounts, status)
    accounts.flush()
    metrics = replica._metrics_manager
    assert len(metrics._cached_latencies["/shop"]) == SAMPLES
    latencies = metrics.ingress("_cached_ingress_processing_latencies")
    assert [len(each) for _, each in latencies] == [SAMPLES // 4] * 4
    counts = metrics.ingress("_cached_ingress_request_counter")
    assert [count for _, count in counts] == [2 * SAMPLES] * 4


async def test_what_was_counted_is_handed_on_once(
    replica: Replica, accounts: ServeAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_S", 0.05)
    counter = replica._metrics_manager._cached_request_counter
    for count in (1, 2):
        await answer(accounts, 200)
        assert counter["/shop"] == count - 1
        await asyncio.sleep(0.2)
        assert counter["/shop"] == count


def test_serves_timeout_needs_serve(replica: Replica, accounts: ServeAccounts) -> None:
    replica._http_options.request_timeout_s = 5
    assert not accounts.are_enough


def test_serves_access_log_needs_serve(accounts: ServeAccounts) -> None:
    module.logger.setLevel(logging.INFO)
    assert not accounts.are_enough


def test_only_an_access_log_that_is_written_needs_serve() -> None:
    """Each update of a model has Serve set its logger's level anew."""
    replica = Replica()
    accounts = ServeAccounts(replica)
    module.logger.setLevel(logging.INFO)
    assert not accounts.are_enough
    replica._deployment_config.logging_config = {"enable_access_log": False}
    assert accounts.are_enough
    replica._deployment_config.logging_config = LoggingConfig(enable_access_log=True)
    assert not accounts.are_enough


def test_tracing_needs_serve(accounts: ServeAccounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_tracing_enabled", lambda: True)
    assert not accounts.are_enough
