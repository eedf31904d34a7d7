"""From a backend to a Serve application: one deployment, `Model`, that is its own ingress."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from ray import serve
from ray.serve import Application as Application  # what every `build` returns
from ray.serve import Deployment
from ray.serve.context import ReplicaContext
from ray.serve.metrics import Counter

from deployments.internals.middleware import IngressDeployment, is_own_server
from deployments.internals.replica_config import max_ongoing_requests
from deployments.replica.logs import set_up_logs
from deployments.replica.metrics import MetricsExporter
from rayserve_app.app import App, create_app
from rayserve_app.errors import (
    ConfigurationError,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotReady,
    ServingError,
)
from rayserve_app.inference.backend import Backend
from rayserve_app.inference.batcher import (
    Predict,
    Result,
    Target,
    as_error,
    check_outputs,
    run_batch,
)
from rayserve_app.inference.model import INLINE_BYTES, ITEM_BYTES, Model
from rayserve_app.media_types import OCTETS
from rayserve_app.metrics.recorder import Recorder
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.payloads.items import Encoded
from rayserve_app.process.cores import available_cores
from rayserve_app.process.library_threads import bind_threads
from rayserve_app.process.timing import Timing
from rayserve_app.settings.model import MAX_SURGE_PERCENT, BatchingSettings, ModelSettings
from rayserve_app.types import Item

HEALTH_CHECK_PERIOD_S = 2
"""Serve replaces a replica after three failed checks in a row."""

HEALTH_CHECK_TIMEOUT_S = 10

WARM_UP_DEADLINES = 20
"""How many times a request's deadline a model may take to warm up."""

LEAST_WARM_UP_S = 60
"""What it may take at least: a deadline is of a warm model, and may be tight."""

SHUTDOWN_MARGIN_S = 10
"""What a replica may take to stop beyond its deadline."""


def build_application(
    settings: ModelSettings, create_backend: Callable[[], Backend]
) -> Application:
    """Return the Serve application of one model.

    The backend is created in the replica: Serve pickles what a deployment is bound to even after
    the constructor, when a backend holds what cannot be pickled.

    Options that the YAML's `deployments:` block leaves out are derived from the model's settings:
    a replica takes as many requests as its queue takes items, so that a refusal is ours, in the
    protocol's own body, before it is Serve's.
    """
    batching = settings.batching
    most = settings.max_queued_items + batching.max_batch_size * batching.max_concurrent_batches
    deploy = serve.deployment(
        name="Model",
        max_surge_percent=MAX_SURGE_PERCENT,
        max_ongoing_requests=most,
        max_queued_requests=most,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
        # A replica that is replaced answers what it has taken, however late that may be.
        graceful_shutdown_timeout_s=settings.deadline.latency_ms / 1e3 + SHUTDOWN_MARGIN_S,
    )
    deployment: Deployment = deploy(serve.ingress()(ModelDeployment))
    return deployment.bind(settings, create_backend)


class ModelDeployment(IngressDeployment):
    """One replica of one model: an ingress for HTTP, and `predict` for handles."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: ModelSettings, create_backend: Callable[[], Backend]
    ) -> None:
        backend = create_backend()
        context = serve.get_replica_context()
        _check_ongoing_requests(context, settings.batching)
        set_up_logs(context)
        recorder = Recorder(context.replica_tag)
        self.model = Model(
            settings,
            backend,
            name=settings.name or context.app_name,
            recorder=recorder,
            batcher=_stock_batcher(settings.batching, recorder),
        )
        await asyncio.to_thread(load, self.model)
        self._metrics = asyncio.create_task(MetricsExporter(recorder, _counter).run())
        self._warm_by = perf_counter() + _longest_warm_up_s(settings)
        self._warm_up = asyncio.create_task(asyncio.to_thread(warm_up, self.model))
        # Replacing or joining replicas that serve, it becomes ready only when it is warm. The
        # first one answers at once, 503 in the client's protocol until it is.
        if await asyncio.to_thread(_is_served, context):
            await asyncio.wait([self._warm_up], timeout=self._warm_by - perf_counter())
            self._check_warm_up()

    def __serve_build_asgi_app__(self) -> App:
        app = create_app(self.model, takes_views=is_own_server)
        IngressDeployment.app = app
        return app

    async def predict(
        self, items: Sequence[Any], *, version: str | None = None, signature: str | None = None
    ) -> list[Any]:
        """Return one result per item: the model's object, its array, or a mapping of output name
        to array for several outputs.

        Args:
            items: what HTTP clients send as payloads, without the protocol: encoded images as
                bytes, strings, arrays, mappings of input name to array.
            version, signature: which of those that the model has; the default one if None.

        Raises:
            ServingError: the first fault; its path is the item's index.
        """
        self.model.check_admission()
        servable = self.model.select(version, signature)
        reading = partial(_read, servable.inputs, items)
        work = sum(_work_bytes(servable.inputs, item) for item in items)
        encoded = await self.model.offload(reading, work)
        results = await self.model.predict(encoded, servable=servable)
        return [_value(result, index) for index, result in enumerate(results)]

    async def check_health(self) -> None:
        self._check_warm_up()
        if self.model.is_stalled:
            raise ModelNotReady(f"Model {self.model.name!r} hangs: its deadlines pass unanswered")

    def _check_warm_up(self) -> None:
        if self._warm_up.done():
            self._warm_up.result()
        elif perf_counter() >= self._warm_by:
            raise ModelNotReady(f"Model {self.model.name!r} hangs in its warm-up")

    async def __del__(self) -> None:
        if hasattr(self, "_metrics"):
            self._metrics.cancel()
            self.model.close()


def load(model: Model) -> None:
    """Load a model in a process of its own, whose libraries get the model's threads. Blocks."""
    bind_threads(model.settings.threads.compute or available_cores())
    model.load()
    gc.collect()


def warm_up(model: Model) -> None:
    """Warm a model up, and keep the garbage collector from what is there to stay: again and again
    it would take a tenth of a second to look at a framework's objects, and nothing else runs
    meanwhile. Blocks."""
    model.warm_up()
    gc.freeze()


class StockBatcher:
    """`@serve.batch` itself, for comparison: `batching.mode: serve_batch`."""

    is_stalled = False
    is_free = False
    shortest_s = 0.0

    def __init__(self, settings: BatchingSettings, recorder: Recorder) -> None:
        self._recorder = recorder
        self._batch = serve.batch(
            max_batch_size=settings.max_batch_size,
            batch_wait_timeout_s=settings.batch_wait_timeout_s,
            max_concurrent_batches=settings.max_concurrent_batches,
        )
        self._submitters: dict[Predict, Callable[[Item], Any]] = {}

    async def submit(
        self, items: Sequence[Item], target: Target, *, timeout_s: float, timing: Timing
    ) -> list[Result]:
        """Return one result per item, as `Batcher.submit` does."""
        submit_one = self._submitters.get(target.predict) or self._add(target.predict)
        try:
            async with asyncio.timeout(timeout_s):
                return list(await asyncio.gather(*map(submit_one, items)))
        except TimeoutError as exc:
            raise DeadlineExceeded("The model gave no result within its deadline") from exc

    def end_s(self, coming: int) -> float:
        """Return 0: nobody knows."""
        return 0.0

    def close(self) -> None:
        return

    def _add(self, predict: Predict) -> Callable[[Item], Any]:
        """Make a batch queue of its own for what predicts by itself: a version or a signature."""

        async def run(items: list[Item]) -> list[Result]:
            return await self._run(predict, items)

        self._submitters[predict] = self._batch(run)
        return self._submitters[predict]

    async def _run(self, predict: Predict, items: list[Item]) -> list[Result]:
        self._recorder.batch_items.observe(len(items))
        try:
            outputs = await asyncio.to_thread(predict, items)
        except InvalidRequest:  # of one of them, and nobody is to be told of another's
            return await asyncio.to_thread(run_batch, predict, items)
        except Exception as exc:
            return [as_error(exc)] * len(items)
        return check_outputs(outputs, len(items))


def _read(inputs: Inputs, items: Sequence[Any]) -> list[Encoded]:
    return [inputs.from_object(item, path=f"[{index}]") for index, item in enumerate(items)]


def _work_bytes(inputs: Inputs, item: Any) -> int:
    """Return how much it is to read an item (`Model.offload`): an array may have to be converted,
    and a collection of Python's to become one."""
    if isinstance(item, bytes | bytearray | memoryview):
        return ITEM_BYTES + inputs.work_bytes(item, OCTETS)
    if isinstance(item, np.ndarray):
        return 2 * ITEM_BYTES + item.nbytes // ITEM_BYTES
    return ITEM_BYTES + len(item) if isinstance(item, str) else INLINE_BYTES + 1


def _counter(name: str, description: str, tags: tuple[str, ...]) -> Counter:
    return Counter(name, description=description, tag_keys=tags)  # type: ignore[arg-type]


def _stock_batcher(settings: BatchingSettings, recorder: Recorder) -> StockBatcher | None:
    if settings.mode != "serve_batch":
        return None
    return StockBatcher(settings, recorder)


def _check_ongoing_requests(context: ReplicaContext, batching: BatchingSettings) -> None:
    most = max_ongoing_requests(context)
    if most is not None and most < batching.max_batch_size:
        raise ConfigurationError(
            "Batches can never be full",
            expected=f"at least max_batch_size, {batching.max_batch_size}",
            got=str(most),
            path=f"applications[{context.app_name}].deployments[Model].max_ongoing_requests",
        )


def _longest_warm_up_s(settings: ModelSettings) -> float:
    return max(LEAST_WARM_UP_S, WARM_UP_DEADLINES * settings.deadline.latency_ms / 1e3)


def _is_served(context: ReplicaContext) -> bool:
    """Return whether another replica of this deployment serves at the moment."""
    application = serve.status().applications.get(context.app_name)
    if application is None or context.deployment not in application.deployments:
        return False
    states = application.deployments[context.deployment].replica_states
    return any(state == "RUNNING" and count > 0 for state, count in states.items())


def _value(result: Result, index: int) -> Any:
    if isinstance(result, ServingError):
        raise result.at(f"[{index}]")
    value = result.value
    if isinstance(result.outputs, Mapping) and len(value) == 1:
        return next(iter(value.values()))
    return value
