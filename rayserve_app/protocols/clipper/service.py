"""The routes of Clipper's query API, for one model that is its own application."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import count
from time import perf_counter
from typing import ClassVar, Final

from rayserve_app.codecs import json
from rayserve_app.errors import (
    DeadlineExceeded,
    DecodeError,
    ModelNotReady,
    ServingError,
    VersionNotFound,
    release,
)
from rayserve_app.inference.batcher import Result
from rayserve_app.inference.model import Model
from rayserve_app.inference.servables import Servable
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.protocols.clipper.messages import (
    SCHEMA,
    UPDATE_SCHEMA,
    MalformedQuery,
    NoQuery,
    Prediction,
    Query,
    explain,
    join,
    output_value,
    parse,
    parse_feedback,
    render,
    reparse,
)
from rayserve_app.protocols.clipper.metrics import ApplicationMetrics
from rayserve_app.protocols.protocol import Means, Protocol, Route, disowned, inference
from rayserve_app.protocols.writing import written
from rayserve_app.types import Row
from rayserve_app.web.messages import Request, Response, retry_headers, status_of

# query_processor.cpp: the explanations of a default that the timer caused, and of one without a
# model that could be asked.
DEADLINE_EXPLANATION: Final = (
    "Failed to retrieve a prediction response within the specified latency SLO"
)
NOT_READY_EXPLANATION: Final = "No connected models found for query"

# query_frontend.hpp, update_fn: upstream calls it application/json, which it is not.
FEEDBACK: Final = b"Feedback received? 1"
TEXT: Final = "text/plain; charset=utf-8"


class Clipper(Protocol):
    """Clipper's query API for one model, which is its own application."""

    name: ClassVar[str] = "clipper"

    # query_frontend.hpp: "^/<app>/predict/?$", "^/<app>/update/?$", "^/metrics$"
    ROUTES: ClassVar = (
        Route("POST", "/predict", "predict", Means.BEFORE_IT),
        Route("POST", "/predict/", "predict", Means.BEFORE_IT),
        Route("POST", "/update", "update", Means.BEFORE_IT),
        Route("POST", "/update/", "update", Means.BEFORE_IT),
        Route("GET", "/metrics", "metrics", Means.ALL),
    )

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        # query_processor.cpp: one counter per process, from 0.
        self._query_ids = count()
        self._metrics = ApplicationMetrics()

    @inference
    async def predict(self, request: Request) -> Response:
        # query_processor.cpp: there is no error for a model that cannot be asked.
        absence: ModelNotReady | None = None
        try:
            self.model.check_admission()
        except ModelNotReady as exc:
            release(exc)
            absence = exc
        body = await request.body()
        reading = partial(parse, body, self.model.inputs, inputs_of=self._inputs_of)
        try:
            query = await self.model.offload(reading, json.work_bytes(body))
        except NoQuery as exc:
            raise disowned(exc, body, request.header("content-type")) from exc
        answer = await written(
            self.model,
            await self._predict(query, request, absence),
            partial(self._render, query),
        )
        self._metrics.latency.observe(perf_counter() - request.started_at, len(query.inputs))
        return Response(answer, media_type="application/json")

    async def update(self, request: Request) -> Response:
        """Take feedback on a prediction, and do nothing with it: upstream's goes to a selection
        policy among several models, and an application here has one."""
        body = await request.body()
        reading = partial(parse_feedback, body, self.model.inputs)
        try:
            await self.model.offload(reading, json.work_bytes(body))
        except MalformedQuery as exc:
            release(exc)
            return Response(explain(exc, UPDATE_SCHEMA).encode(), status=400, media_type=TEXT)
        return Response(FEEDBACK, media_type=TEXT)

    async def metrics(self, _: Request) -> Response:
        return Response(await asyncio.to_thread(self._report), media_type="application/json")

    @classmethod
    def render_error(cls, error: ServingError) -> Response:
        """Errors are `{"error", "cause"}` (query_frontend.hpp, json_error)."""
        kind, cause = "Query processing error", str(error)
        if isinstance(error, MalformedQuery):
            kind, cause = "Json error", explain(error, SCHEMA)
        body = json.encode({"error": kind, "cause": cause})
        # Upstream answers 400 to every fault of the caller; too large, too slow and too busy are
        # ours, and keep the statuses that HTTP has for them. VersionNotFound: 400.
        status = 400 if isinstance(error, VersionNotFound) else status_of(error)
        return Response(
            body, status=status, media_type="application/json", headers=retry_headers(error)
        )

    def _report(self) -> bytes:
        model = self.model
        version = model.versions.default.version
        return json.encode(
            self._metrics.report(model.name, version, model.recorder, perf_counter())
        )

    def _inputs_of(self, version: str) -> Inputs:
        return self._select(version).inputs

    def _select(self, version: str | None) -> Servable:
        try:
            return self.model.select(version)
        except VersionNotFound as exc:
            raise VersionNotFound(
                f"Requested version: {version} does not exist for model: {self.model.name}"
            ) from exc

    async def _predict(
        self, query: Query, request: Request, absence: ModelNotReady | None
    ) -> Sequence[Result]:
        items = [item for inputs in query.inputs if isinstance(inputs, list) for item in inputs]
        if absence is not None:
            return [absence] * len(items)
        servable = self._select(query.version)
        try:
            return await self.model.predict(
                items, servable=servable, timing=request.timing, apart=True
            )
        except (DeadlineExceeded, ModelNotReady) as exc:
            release(exc)
            return [exc] * len(items)

    def _render(self, query: Query, results: Sequence[Result]) -> bytes:
        remaining = iter(results)
        bodies = [
            self._render_one(
                [inputs] if isinstance(inputs, DecodeError) else [next(remaining) for _ in inputs]
            )
            for inputs in query.inputs
        ]
        return join(bodies, is_batch=query.is_batch)

    def _render_one(self, results: Sequence[Result]) -> bytes:
        """Write one prediction; any error, of writing it too, makes it the default output."""
        query_id = next(self._query_ids)
        try:
            outputs = [output_value(_row(result)) for result in results]
            return render(Prediction(query_id, outputs[0] if len(outputs) == 1 else outputs))
        except ServingError as exc:
            release(exc)
            return render(self._default(query_id, exc))

    def _default(self, query_id: int, error: ServingError) -> Prediction:
        reason, explanation = "error", str(error)
        if isinstance(error, DeadlineExceeded):
            reason, explanation = "deadline", DEADLINE_EXPLANATION
        elif isinstance(error, ModelNotReady):
            reason, explanation = "not_ready", NOT_READY_EXPLANATION
        self.model.recorder.defaults[reason] += 1
        self._metrics.defaults += 1
        default = self.model.settings.deadline.default_output
        output = reparse(default) if isinstance(default, str) else default
        return Prediction(query_id, output, explanation)


def _row(result: Result) -> Row:
    if isinstance(result, ServingError):
        raise result
    return result
