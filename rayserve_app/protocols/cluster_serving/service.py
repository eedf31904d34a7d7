"""The routes of Cluster Serving's HTTP frontend, on one model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np

from rayserve_app.codecs import json
from rayserve_app.errors import (
    DecodeError,
    InvalidRequest,
    ModelNotFound,
    ServingError,
    VersionNotFound,
    release,
)
from rayserve_app.inference.batcher import Result
from rayserve_app.inference.model import Model
from rayserve_app.inference.servables import Servable
from rayserve_app.payloads.items import Encoded
from rayserve_app.protocols.cluster_serving.messages import (
    NoInstances,
    create_post_processing,
    parse,
    pretty,
    render,
)
from rayserve_app.protocols.cluster_serving.settings import ClusterServingSettings
from rayserve_app.protocols.protocol import (
    Declined,
    Means,
    Protocol,
    Route,
    disowned,
    inference,
    those_known,
)
from rayserve_app.protocols.timers import Timer, quantiles
from rayserve_app.protocols.writing import written
from rayserve_app.types import Buffer
from rayserve_app.web.messages import Request, Response, retry_headers, status_of

# Akka's for a String.
TEXT: Final = "text/plain; charset=UTF-8"

# Frontend2.scala, exampleJson.
EXAMPLE: Final = """{
  "instances" : [ {
    "intScalar" : 12345,
    "floatScalar" : 3.14159,
    "stringScalar" : "hello, world. hello, zoo.",
    "intTensor" : [ 7756, 9549, 1094, 9808, 4959, 3831, 3926, 6578, 1870, 1741 ],
    "floatTensor" : [ 0.6804766, 0.30136853, 0.17394465, 0.44770062, 0.20275897 ],
    "stringTensor" : [ "come", "on", "united" ],
    "intTensor2" : [ [ 1, 2 ], [ 3, 4 ], [ 5, 6 ] ],
    "floatTensor2" : [ [ [ 0.2, 0.3 ], [ 0.5, 0.6 ] ], [ [ 0.2, 0.3 ], [ 0.5, 0.6 ] ] ],
    "stringTensor2" : [ [ [ [ "come", "on", "united" ], [ "come", "on", "united" ] ] ] ],
    "sparseTensor" : {
      "shape" : [ 100, 10000, 10 ],
      "data" : [ 0.2, 0.5, 3.45, 6.78 ],
      "indices" : [ [ 1, 1, 1 ], [ 2, 2, 2 ], [ 3, 3, 3 ], [ 4, 4, 4 ] ]
    },
    "image": "/9j/4AAQSkZJRgABAQEASABIAAD/7RcEUGhvdG9za..."
  } ]
}"""

SECURED: Final = "model secured secrect and salt succeed to put in redis"


Instances: TypeAlias = Sequence[list[Encoded] | DecodeError]


class ClusterServing(Protocol):
    """Cluster Serving's HTTP frontend for one model."""

    name: ClassVar[str] = "cluster_serving"

    settings_type = ClusterServingSettings

    ROUTES: ClassVar = (
        Route("POST", "/predict", "predict"),
        Route("GET", "/metrics", "metrics", Means.ALL),
        Route("POST", "/model-secure", "secure"),
        Route("GET", "/models", "models", Means.ALL),
        Route("GET", "/models/{model}", "models"),
        Route("GET", "/models/{model}/versions/{version}", "version"),
        Route("POST", "/models/{model}/versions/{version}/predict", "predict_version"),
    )

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        settings = model.settings.of_protocol(self.name, ClusterServingSettings)
        self._render = partial(
            render,
            form=settings.prediction,
            post_process=create_post_processing(settings.post_processing),
        )
        self._overall, self._predictions, self._reports = Timer(), Timer(), Timer()

    @inference
    async def predict(self, request: Request) -> Response:
        try:
            return await self._predict(request, self.model.versions.default)
        except NoInstances as exc:
            raise disowned(exc, await request.body(), request.header("content-type")) from exc

    @inference
    async def predict_version(self, request: Request) -> Response:
        servable = self._select(request)
        try:
            return await self._predict(request, servable)
        except (ServingError, Declined) as exc:
            release(exc)
            return _render_runtime_error(exc.error if isinstance(exc, Declined) else exc)

    async def models(self, request: Request) -> Response:
        """Describe all versions, of which the model is the only one here."""
        described = {
            each.version: self._describe(each) for each in reversed([*self.model.versions])
        }
        return self._answer(request, pretty([*reversed(described.values())]))

    async def version(self, request: Request) -> Response:
        return self._answer(request, pretty(self._describe(self._select(request))))

    async def secure(self, request: Request) -> Response:
        """Take the secret and salt of an encrypted model; no model is, and nothing is kept."""
        body = await request.body()
        if not await self.model.offload(partial(_has_secret, body), len(body)):
            problem = "No secret and salt\n please post a content like secret=xxx&salt=xxxx"
            return _render_error(InvalidRequest(problem))
        return self._answer(request, SECURED)

    async def metrics(self, request: Request) -> Response:
        report = await asyncio.to_thread(self._report)
        self._reports.observe(perf_counter() - request.started_at)
        return self._answer(request, report)

    @classmethod
    def unknown_model(cls, name: str, known: Sequence[str]) -> ServingError:
        return ModelNotFound(
            f"model not exist. Model Name: {name[:200]}", remedy=those_known(name, known)
        )

    @classmethod
    def render_error(cls, error: ServingError) -> Response:
        """Errors of `/predict` are text that ends in an example for what is wrong with the body,
        and `{"error"}` for all else; a model or version that is not there is told as the `/models`
        routes do."""
        if isinstance(error, ModelNotFound):
            return _render_runtime_error(error)
        if status_of(error) != 400:
            return _render_error(error)
        text = f"Wrong content format.\nDetails: {error}\nPlease refer to examples:\n{EXAMPLE}\n"
        return Response(text.encode(), status=400, media_type=TEXT)

    def _report(self) -> str:
        timers = {"overall": self._overall, "predict": self._predictions, "metrics": self._reports}
        now = perf_counter()
        return pretty(
            [
                _describe_timer(f"zoo.serving.request.{name}", timer, now)
                for name, timer in timers.items()
            ]
        )

    async def _predict(self, request: Request, servable: Servable) -> Response:
        model = self.model
        model.check_admission()
        body = await request.body()
        reading = partial(
            parse,
            body,
            servable,
            max_dense_bytes=int(model.settings.limits.max_body_mb * 1e6),
        )
        instances = await model.offload(reading, json.work_bytes(body))
        answer = await written(
            model,
            await self._results(instances, servable, request),
            partial(self._write, instances),
        )
        self._predictions.observe(perf_counter() - request.started_at)
        return self._answer(request, answer)

    async def _results(
        self, instances: Instances, servable: Servable, request: Request
    ) -> list[Result]:
        items = [item for each in instances if isinstance(each, list) for item in each]
        results = await self.model.predict(
            items, servable=servable, timing=request.timing, apart=True
        )
        if failed := sum(isinstance(result, ServingError) for result in results):
            self.model.recorder.defaults["error"] += failed
        return results

    def _write(self, instances: Instances, results: Sequence[Result]) -> bytes:
        """Write the results of each instance's items."""
        remaining = iter(results)
        return self._render(
            [
                [each] if isinstance(each, DecodeError) else [*islice(remaining, len(each))]
                for each in instances
            ]
        )

    def _answer(self, request: Request, body: str | bytes) -> Response:
        self._overall.observe(perf_counter() - request.started_at)
        return Response(body.encode() if isinstance(body, str) else body, media_type=TEXT)

    def _select(self, request: Request) -> Servable:
        version = request.path_params["version"]
        try:
            return self.model.select(version)
        except VersionNotFound as exc:
            raise ModelNotFound(
                f"model not exist. Model Name: {self.model.name}, Model Version: {version}",
                remedy=f"Known: {exc.expected}",
            ) from exc

    def _describe(self, servable: Servable) -> dict[str, Any]:
        """Return what upstream tells of a model that is asked through a queue, in its keys
        (domains.scala, ClusterServingMetaData); there is no queue, and no limit by tokens."""
        return {
            "type": "ClusterServingMetaData",
            "modelName": self.model.name,
            "modelVersion": servable.version,
            "redisHost": "",
            "redisPort": "",
            "redisInputQueue": "",
            "redisOutputQueue": "",
            "timeWindow": 0,
            "countWindow": self.model.settings.batching.max_batch_size,
            "tokenBucketEnabled": False,
            "tokensPerSecond": 0,
            "redisSecureEnabled": False,
            "redisTrustStorePath": "*******",
            "redisTrustStoreToken": "*******",
            "inputCompileType": "instance",
            "features": list(servable.inputs.names),
        }


def _has_secret(body: Buffer) -> bool:
    pairs = [pair.partition(b"=") for pair in bytes(body).split(b"&", 2)[:2]]
    return len(pairs) == 2 and all(value for _, _, value in pairs)


def _render_error(error: ServingError) -> Response:
    """FrontEndApp.scala, ServingError."""
    return Response(
        pretty({"error": str(error)}).encode(),
        status=status_of(error),
        media_type=TEXT,
        headers=retry_headers(error),
    )


def _render_runtime_error(error: ServingError) -> Response:
    """Return the answer of the `/models` routes: 404, 405 for what is wrong with the request, and
    500 for the rest, where upstream also puts a body that is no JSON."""
    status, headers = status_of(error), retry_headers(error)
    if status == 404:
        text = f"Model Not Found. Err: {error}"
    elif status < 500:
        text = f"Serving Runtime Error Err: {error}"
    else:
        text = f"Internal Error: {error}"
    if status == 400:
        # RFC 9110, section 15.5.6: 405 names the methods.
        status, headers = 405, {"allow": "POST"}
    return Response(text.encode(), status=status, media_type=TEXT, headers=headers)


def _describe_timer(name: str, timer: Timer, now: float) -> dict[str, Any]:
    """domains.scala, ServingTimerMetrics: milliseconds, the least and the most of them whole."""
    sample = timer.sample * 1e3 if timer.count else np.zeros(1)
    median, p75, p95, p98, p99, p999 = quantiles(sample, 0.5, 0.75, 0.95, 0.98, 0.99, 0.999)
    return {
        "name": name,
        "count": timer.count,
        "meanRate": timer.rates(now).mean,
        "min": int(sample.min()),
        "max": int(sample.max()),
        "mean": float(sample.mean()),
        "median": median,
        "stdDev": float(sample.std()),
        "_75thPercentile": p75,
        "_95thPercentile": p95,
        "_98thPercentile": p98,
        "_99thPercentile": p99,
        "_999thPercentile": p999,
    }
