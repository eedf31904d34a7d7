"""The ASGI app of one model: its protocols' routes, its metadata, and errors in their bodies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import Final, TypeAlias

from starlette.types import Receive, Scope, Send

from rayserve_app.codecs import json
from rayserve_app.errors import BackendError, InvalidRequest, ServingError, release
from rayserve_app.importing import import_from_string
from rayserve_app.inference.model import Model
from rayserve_app.metrics import exposition
from rayserve_app.protocols.protocol import Declined, Protocol, is_inference, wrong_method
from rayserve_app.settings.protocols import PROTOCOLS
from rayserve_app.web import openapi, pages
from rayserve_app.web.cors import with_cors
from rayserve_app.web.messages import (
    FORWARDED,
    BodyBudget,
    ClientDisconnected,
    Handler,
    Request,
    Response,
    error_response,
    no_such_path,
    run_plain,
    status_of,
)
from rayserve_app.web.routing import Router
from rayserve_app.web.slow_clients import watched

logger = logging.getLogger(__name__)

_JSON = "application/json"

METRICS_PATH: Final = "/metrics"

MALFORMED: Final = (400, 415)
"""Statuses of requests that are not what a protocol takes."""

Endpoint: TypeAlias = tuple[Handler, Protocol | None]

Claimants: TypeAlias = list[tuple[Endpoint, Mapping[str, str]]]


def create_app(model: Model, *, takes_views: Callable[[Scope], bool] = lambda _: False) -> App:
    """Return the ASGI app of a model.

    Args:
        takes_views: whether the server that took this connection writes a `memoryview` body as it
            is; if in doubt, not.
    """
    protocols = [import_from_string(PROTOCOLS[name])(model) for name in model.settings.protocols]
    return App(model, protocols, takes_views)


class App:
    """Routes requests by their path below the model's prefix, which is the same with or without a
    final slash. Where several protocols claim a path, the first in the model's order gets the
    request, or in that of the gateway which forwards it, and the next ones if it declines. If none
    takes it, the first says why who knows it."""

    def __init__(
        self, model: Model, protocols: list[Protocol], takes_views: Callable[[Scope], bool]
    ) -> None:
        self._model = model
        self._takes_views = takes_views
        self._budget = BodyBudget(model.settings.limits.max_buffered_mb)
        self._answer_any = with_cors(self._answer, model.settings.cors)
        self._router: Router[Endpoint] = Router()
        self._router.add("GET", "/", (self._describe, None))
        self._router.add("GET", "/openapi.json", (self._document, None))
        self._router.add("GET", METRICS_PATH, (self._metrics, None))
        self._protocols = protocols
        for protocol in protocols:
            for route in protocol.ROUTES:
                handler = getattr(protocol, route.handler)
                self._router.add(route.method, route.path, (handler, protocol))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await run_plain(self._answer_any, scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        claims = self._router.find(path)
        claimants = claims.get("GET" if scope["method"] == "HEAD" else scope["method"])
        endpoint: Endpoint = (self._describe, None)
        request = Request(scope, receive, self._model.settings.limits, self._budget)
        try:
            if claimants:
                response, endpoint = await self._ask(claimants, request)
            elif claims:
                protocols = {
                    method: [protocol for (_, protocol), _ in endpoints]
                    for method, endpoints in claims.items()
                }
                response = wrong_method(scope["method"], path, protocols)
            else:
                response = no_such_path(path, self._router.paths)
        except ClientDisconnected as exc:
            release(exc)
            return
        finally:
            request.close()
        self._record(request, response, endpoint)
        await response.send(
            send,
            takes_views=self._takes_views(scope),
            with_body=scope["method"] != "HEAD",
        )

    async def _ask(self, claimants: Claimants, request: Request) -> tuple[Response, Endpoint]:
        """Return the answer of the first claimant that does not decline, and who that is."""
        refusal: tuple[ServingError, Endpoint] | None = None
        is_claimed = False  # by who declined it, if only half
        if len(claimants) > 1 and (order := request.header(FORWARDED)) is not None:
            claimants = _in_order(claimants, order)
        for endpoint, request.path_params in claimants:
            handler, protocol = endpoint
            try:
                if protocol is not None and "model" in request.path_params:
                    protocol.check_name(request.path_params["model"])
                return await watched(handler, request), endpoint
            except Declined as exc:
                release(exc)
                if refusal is None or (exc.may_be_mine and not is_claimed):
                    refusal = (exc.error, endpoint)
                is_claimed = is_claimed or exc.may_be_mine
            except ServingError as exc:
                release(exc)
                if not (is_claimed and status_of(exc) in MALFORMED):
                    return self._render_error(exc, protocol), endpoint
            except ClientDisconnected:
                raise
            except Exception as exc:
                logger.exception("Model %r: %s failed", self._model.name, request.path)
                release(exc)
                fault = BackendError("Internal error; the replica's log has the details")
                return self._render_error(fault, protocol), endpoint
        assert refusal is not None
        error, endpoint = refusal
        return self._render_error(error, endpoint[1]), endpoint

    def _record(self, request: Request, response: Response, endpoint: Endpoint) -> None:
        (handler, protocol), recorder = endpoint, self._model.recorder
        recorder.responses[protocol.name if protocol else "", response.status] += 1
        timing = request.timing
        if timing.predicted_at:
            timing.encode = perf_counter() - timing.predicted_at
            timing.record(recorder)
            response.headers["server-timing"] = timing.header()
        if timing.inferences is not None:
            if response.status < 400:
                timing.inferences.add_output(timing.encode)
        elif response.status >= 400 and response.status != 404 and is_inference(handler):
            inferences = recorder.inferences[self._version_of(request)]
            inferences.fail.add(perf_counter() - timing.started_at)

    def _version_of(self, request: Request) -> str:
        """Return the version that a request's path names, the default one if it names none."""
        version, versions = request.path_params.get("version"), self._model.versions
        known = any(each.version == version for each in versions)
        return version if version is not None and known else versions.default.version

    def _render_error(self, error: ServingError, protocol: Protocol | None) -> Response:
        if protocol is None:
            return error_response(500, str(error))
        return protocol.render_error(error)

    async def _describe(self, request: Request) -> Response:
        """Answer browsers with a page of the model, programs with JSON."""
        description = self._model.describe()
        if pages.is_wanted(request.list_header("accept") or ""):
            page = pages.model(description, request.root_path, self._router.operations)
            return Response(page, media_type=pages.MEDIA_TYPE)
        return Response(json.encode(description), media_type=_JSON)

    async def _metrics(self, request: Request) -> Response:
        """Answer Prometheus; who asks for no format of its is answered by a protocol, if one has
        this path."""
        form = exposition.wanted(request.header("accept"))
        if form is None and len(self._router.find(METRICS_PATH)["GET"]) > 1:
            raise Declined(InvalidRequest("Not a format of Prometheus"))
        form = form or exposition.TEXT
        labels = {"model": self._model.name, "replica": self._model.recorder.replica}
        return Response(exposition.write(self._model.recorder, labels, form), media_type=form)

    async def _document(self, request: Request) -> Response:
        model = self._model
        examples = {
            name: example
            for protocol in self._protocols
            for name, example in protocol.schema_examples().items()
        }
        writing = partial(
            openapi.write_document,
            model.name,
            tuple(protocol.fragment() for protocol in self._protocols),
            base_path=request.root_path,
            models=(model.name,),
            version=model.versions.default.version,
            media_types=model.inputs.media_types,
            examples=json.encode(examples),
        )
        return Response(await asyncio.to_thread(writing), media_type=_JSON)


def _in_order(claimants: Claimants, order: str) -> Claimants:
    """Return those of the protocols that a gateway names, in its order; all if it names none."""
    names = order.split(",")
    own = [each for each in claimants if each[0][1] is None]
    named = [(each[0][1].name, each) for each in claimants if each[0][1] is not None]
    known = [(names.index(name), each) for name, each in named if name in names]
    ordered = [each for _, each in sorted(known, key=lambda pair: pair[0])]
    return [*own, *ordered] if ordered else claimants
