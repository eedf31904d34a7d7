"""What Serve keeps of the requests of one replica, for those that its wrapper does not see.

The wrapper (`Replica._direct_ingress_asgi`, ray/serve/_private/replica.py, Ray 2.60) costs a
replica more than a small image does. Of what it does, a request of our apps needs: one of the
`max_ongoing_requests` slots, to be counted while it runs, which autoscaling and draining go by, and
to be counted when it is answered. None of that is public.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable
from copy import copy
from random import randrange, sample
from time import perf_counter
from types import SimpleNamespace
from typing import Any, Final

from ray.serve._private.common import RequestMetadata, RequestProtocol
from ray.serve._private.request_ingress_metrics import RequestIngressMetrics
from ray.serve._private.tracing_utils import is_tracing_enabled
from ray.serve.schema import LoggingConfig
from starlette.types import ASGIApp

from deployments.internals.versions import NotAsKnown, warn

logger = logging.getLogger("ray.serve")

HTTP: Final = RequestMetadata(
    request_id="",
    internal_request_id="",
    _request_protocol=RequestProtocol.HTTP,
    is_direct_ingress=True,
)
"""What says of a request how it is counted."""

FLUSH_S: Final = 1.0

SAMPLES: Final = 64
"""Latencies that Serve gets each time, of all kinds of requests. It observes each of them twice, in
the event loop, at 3.4 µs each: as many as there are requests would hold it up for milliseconds."""

TRIAL: Final = {
    "_cached_deployment_request_error_counter": 1,
    "_cached_error_counter": 1,
    "_cached_ingress_processing_latencies": [0.0],
    "_cached_ingress_request_counter": 1,
    "_cached_ingress_request_error_counter": 1,
    "_cached_latencies": [0.0, 0.0],
    "_cached_request_counter": 1,
}
"""What Serve keeps by route, error or tags until it reports it, and what `try_out` adds to it."""


class _Tally:
    """Answered requests of one kind, since the last flush; times in milliseconds."""

    __slots__ = ("count", "longest", "sample", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = self.longest = 0.0
        self.sample: list[float] = []
        """Of all latencies each is as likely to be here."""

    def add(self, latency_ms: float) -> None:
        self.count += 1
        self.total += latency_ms
        self.longest = max(self.longest, latency_ms)
        if self.count <= SAMPLES:
            self.sample.append(latency_ms)
        elif (place := randrange(self.count)) < SAMPLES:
            self.sample[place] = latency_ms


class ServeAccounts:
    """The accounts of one replica (`connection.Accounts`)."""

    def __init__(self, replica: Any) -> None:
        self._replica = replica
        self._slots = replica._semaphore
        self._metrics = replica._metrics_manager
        self._tallies: defaultdict[tuple[str, int, str | None], _Tally] = defaultdict(_Tally)
        self._logging: Any = None
        self._logs_access = True

    @property
    def prefix(self) -> str:
        return self._replica._route_prefix or ""

    @property
    def are_enough(self) -> bool:
        return (
            not self._slots.locked()
            and self._replica._http_options.request_timeout_s is None
            and not self._is_logged()
            and not is_tracing_enabled()
        )

    def try_out(self) -> None:
        """Do once all that is done for a request, with Serve's own objects, and count it where
        nobody looks.

        Raises:
            Exception: Serve is not as it is known here.
        """
        if self._replica._user_callable_wrapper._run_user_code_in_separate_thread is not False:
            raise NotAsKnown("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD is not 0")
        prefix = self._replica._route_prefix
        if prefix is not None and not prefix.startswith("/"):
            raise NotAsKnown(f"{prefix!r} is not a route prefix")
        if not isinstance(self.are_enough, bool):
            raise NotAsKnown("A state is not a bool")
        if not self._slots.locked():
            self._try_slot()
        metrics = self._metrics
        trial = copy(self)
        trial._metrics = SimpleNamespace(
            _user_code_time_accumulator=metrics._user_code_time_accumulator,
            _max_processing_latency_trackers=_empty(metrics._max_processing_latency_trackers),
            **{name: _empty(getattr(metrics, name)) for name in TRIAL},
        )
        tally = _Tally()
        tally.add(0.0)
        for error in (None, "Error"):
            trial._count(tally, error)
        trial._count_ingress(tally, "GET", "500")
        for name, expected in TRIAL.items():
            if (found := _only_value(getattr(trial._metrics, name))) != expected:
                raise NotAsKnown(f"{name} is {found!r} after a trial, not {expected!r}")

    def _try_slot(self) -> None:
        """Take a free slot and give it back, whatever else fails."""
        release = self._slots.release
        taking, end = self._slots.acquire().__await__(), object()
        if next(taking, end) is not end:  # it waits
            raise NotAsKnown("A request waits for a slot though one is free")
        try:
            self._metrics.inc_num_ongoing_requests(HTTP)
            self._metrics.dec_num_ongoing_requests(HTTP)
        finally:
            release()

    def _is_logged(self) -> bool:
        """Return whether Serve writes a line for each request. Its logger's level does not tell:
        Serve sets that anew as it configures a replica again, as in each update."""
        declared = self._replica._deployment_config.logging_config
        if declared is not self._logging:
            self._logging = declared
            self._logs_access = LoggingConfig.model_validate(declared or {}).enable_access_log
        return self._logs_access and logger.isEnabledFor(logging.INFO)

    async def begin(self) -> None:
        await self._slots.acquire()
        self._metrics.inc_num_ongoing_requests(HTTP)

    def end(self, method: str, status: int, started_at: float, error: str | None) -> None:
        self._metrics.dec_num_ongoing_requests(HTTP)
        self._slots.release()
        if not self._tallies:
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)
        self._tallies[method, status, error].add((perf_counter() - started_at) * 1e3)

    def flush(self) -> None:
        """Hand on what was counted."""
        tallies = dict(self._tallies)
        self._tallies.clear()
        share = max(1, SAMPLES // max(1, len(tallies)))
        for (method, status, error), tally in tallies.items():
            tally.sample = sample(tally.sample, min(share, len(tally.sample)))
            self._count(tally, error)
            if status:
                self._count_ingress(tally, method, str(status))

    def _count(self, tally: _Tally, error: str | None) -> None:
        """Do what `ReplicaMetricsManager.record_request_metrics` does for each."""
        metrics, route = self._metrics, self.prefix
        metrics._user_code_time_accumulator.add(tally.total)
        metrics._max_processing_latency_trackers[route].add(tally.longest)
        metrics._cached_latencies[route].extend(tally.sample)
        if error is None:
            metrics._cached_request_counter[route] += tally.count
        else:
            metrics._cached_error_counter[route, error] += tally.count

    def _count_ingress(self, tally: _Tally, method: str, status: str) -> None:
        """Do what `ReplicaMetricsManager.record_ingress_request_metrics` does for each."""
        metrics, deployment = self._metrics, self._replica._deployment_id
        of = {
            "route": self.prefix,
            "method": method,
            "application": deployment.app_name,
            "status_code": status,
        }
        tags = frozenset(RequestIngressMetrics.request_tags(**of).items())
        protocol = RequestProtocol.HTTP
        metrics._cached_ingress_request_counter[protocol][tags] += tally.count
        metrics._cached_ingress_processing_latencies[protocol][tags].extend(tally.sample)
        if status >= "4":
            tags = frozenset(RequestIngressMetrics.request_error_tags(**of).items())
            metrics._cached_ingress_request_error_counter[protocol][tags] += tally.count
            named = {**of, "deployment": deployment.name}
            tags = frozenset(RequestIngressMetrics.deployment_error_tags(**named).items())
            metrics._cached_deployment_request_error_counter[protocol][tags] += tally.count


def _empty(kept: Any) -> defaultdict[Any, Any]:
    """Return a mapping as Serve's own, before the first request."""
    if not isinstance(kept, defaultdict):
        raise NotAsKnown(f"{kept!r} is not a defaultdict")
    return defaultdict(kept.default_factory)


def _only_value(kept: Any) -> Any:
    while isinstance(kept, defaultdict):
        (kept,) = kept.values()
    return list(kept) if isinstance(kept, Iterable) else kept


def find_accounts(app: ASGIApp) -> ServeAccounts | None:
    """Return the accounts of the replica whose method stands behind a server's app and its
    middlewares; None where Serve is not as it is known here, or runs the replica's app in an event
    loop of its own, which the server's must not enter."""
    try:
        inner: Any = app
        while (wrapped := getattr(inner, "_app", None) or getattr(inner, "app", None)) is not None:
            inner = wrapped
        accounts = ServeAccounts(inner.__self__)
        accounts.try_out()
    except Exception as error:
        warn(error)
        return None
    return accounts
