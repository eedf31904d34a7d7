"""The ASGI app of a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from starlette.types import Message, Receive, Scope, Send

from rayserve_app.codecs import json
from rayserve_app.errors import (
    ServingError,
    Unavailable,
    release,
)
from rayserve_app.gateway import naming
from rayserve_app.gateway.exchange import AnswerCut
from rayserve_app.gateway.finding import Finder
from rayserve_app.gateway.forwarding import Forwarder
from rayserve_app.gateway.merging import Answer, merge_answers
from rayserve_app.gateway.replicas import Connections, Directory, ServedModel
from rayserve_app.gateway.request_head import MODEL
from rayserve_app.gateway.routes import (
    Claimant,
    Destination,
    create_router,
    import_protocols,
    those_meant,
)
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.gateway.upload import ClientLeft, Upload
from rayserve_app.protocols.protocol import Means, Protocol, shortened, wrong_method
from rayserve_app.protocols.sagemaker.names import AlreadyLoaded
from rayserve_app.types import Buffer
from rayserve_app.web import openapi, pages
from rayserve_app.web.cors import with_cors
from rayserve_app.web.messages import (
    BodyBudget,
    Response,
    did_you_mean,
    error_response,
    no_such_path,
    run_plain,
)
from rayserve_app.web.scope import CLIENT_HEADERS

JSON: Final = "application/json"

OWN_PATHS: Final = ("/", "/openapi.json")

OF_ONE_MODEL: Final = frozenset({b"content-length", b"server-timing", MODEL})
"""Headers that an answer of several models does not have from one of them."""


class Gateway:
    """Forwards each request to the model that it is for."""

    def __init__(self, settings: GatewaySettings, directory: Directory) -> None:
        self._settings = settings
        self._answer_any = with_cors(self._answer, settings.cors)
        self._directory = directory
        self._router = create_router(settings)
        self._budget = BodyBudget(settings.max_buffered_mb)
        self._finder = Finder(settings, directory)
        self.connections = Connections()
        self._forwarder = Forwarder(self.connections, directory, settings.order)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await run_plain(self._answer_any, scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        method = scope["method"]
        claims = self._router.find(path)
        claimants = claims.get("GET" if method == "HEAD" else method)
        with_body = method != "HEAD"
        headers = _headers(scope)
        if self._forwarder.has_sent(headers):
            response = error_response(508, "This request has been here before: it would loop")
        elif path in OWN_PATHS and method in ("GET", "HEAD"):
            response = self._list(headers) if path == "/" else await self._document(scope)
        elif claimants:
            destination, params = self._choose(claimants, headers)
            try:
                await self._follow(destination, params, path, headers, scope, receive, send)
            except ClientLeft:
                return
            except ServingError as exc:
                release(exc)
                response = destination.protocol.render_error(exc)
            else:
                return
        elif claims:
            protocols = {
                name: [destination.protocol for destination, _ in found]
                for name, found in claims.items()
            }
            response = wrong_method(method, path, protocols)
        else:
            response = self._no_such_path(path)
        await response.send(send, takes_views=False, with_body=with_body)

    def _no_such_path(self, path: str) -> Response:
        """Answer a path that nobody claims: below a model's prefix, HAProxy hands it to the model,
        so that a path of one below a prefix that is none has a mistyped prefix."""
        for model in self._directory:
            depth, parts = model.prefix.count("/") + 1, path.split("/")
            prefix, rest = "/".join(parts[:depth]), "/" + "/".join(parts[depth:])
            is_of_a_model = rest == "/" or bool(self._router.find(rest))
            question = did_you_mean(prefix, [model.prefix]) if prefix != model.prefix else ""
            if is_of_a_model and question:
                return error_response(404, f"No model at {prefix!r}. {question}")
        return no_such_path(path, self._router.paths)

    async def _follow(
        self,
        destination: Destination,
        params: Mapping[str, str],
        path: str,
        headers: Mapping[bytes, bytes],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        upload = Upload(receive)
        await upload.next_within(self._settings.body_timeout_s)
        try:
            if (whole := await self._for_all(destination, path, scope, upload)) is not None:
                await whole.send(send, takes_views=False, with_body=scope["method"] != "HEAD")
                return
            name = params.get("model")
            read = partial(self._read, upload)
            model = await self._finder.model_of(name, destination, headers, scope, read)
            if destination.means is Means.BEFORE_IT and name is not None:
                path = path.removeprefix(f"/{name}")
            await self._forwarder.send(scope, model.prefix + path, upload, send, model)
        finally:
            upload.give_back()

    async def _for_all(
        self, destination: Destination, path: str, scope: Scope, upload: Upload
    ) -> Response | None:
        """Return the answer where it is not one model's."""
        protocol = destination.protocol
        match destination.means:
            case Means.ALL:
                await self._read(upload)
                return (await self._ask_all(path, scope, upload, protocol)).response()
            case Means.WHO_TAKES_IT:
                return await self._load(path, scope, upload, protocol)
            case Means.SERVER:
                return protocol.document_of(self._directory.names)
            case _:
                return None

    def _choose(self, claimants: Sequence[Claimant], headers: Mapping[bytes, bytes]) -> Claimant:
        """Return whose request it is: of those whose mark it has, the first that knows a model."""
        if len(claimants) == 1:
            return claimants[0]
        meant = those_meant(claimants, headers)
        known = [
            each
            for each in meant
            if "model" in each[1]
            or each[0].means not in (Means.DEFAULT, Means.BEFORE_IT)
            or self._settings.default_for(each[0].protocol.name) is not None
        ]
        return (known or meant or claimants)[0]

    async def _read(self, upload: Upload) -> Buffer:
        settings = self._settings
        await upload.read(
            self._budget,
            max_bytes=int(settings.max_read_mb * 1e6),
            timeout_s=settings.body_timeout_s,
        )
        return upload.start()

    async def _ask_all(
        self, path: str, scope: Scope, upload: Upload, protocol: type[Protocol]
    ) -> Answer:
        models = [model for model in self._directory if model.is_ready]
        if not models:
            raise Unavailable("No model has a replica at the moment")
        asked = [
            asyncio.create_task(self._ask(model, path, scope, upload, protocol)) for model in models
        ]
        try:
            return merge_answers(await asyncio.gather(*asked))
        finally:
            # The first that finds that the client has left ends it for all.
            for task in asked:
                task.cancel()

    async def _load(
        self, path: str, scope: Scope, upload: Upload, protocol: type[Protocol]
    ) -> Response:
        """Ask all models for the one that is meant; only they know where they lie."""
        name = await naming.name_in_body(await self._read(upload), {}, protocol.MODEL_KEYS)
        if name is not None and self._directory.find(name) is not None:
            raise AlreadyLoaded(f"Model {shortened(name)} is already loaded")
        answers: list[Answer] = []
        for model in self._directory:
            answers.append(await self._ask(model, path, scope, upload, protocol))
            if answers[-1].status == 200:
                if name is not None:
                    self._finder.name_further(name, model)
                return answers[-1].response()
        if not answers:
            raise protocol.unknown_model(name or "", [])
        return merge_answers(answers).response()

    async def _ask(
        self,
        model: ServedModel,
        path: str,
        scope: Scope,
        upload: Upload,
        protocol: type[Protocol],
    ) -> Answer:
        """Return what one of several models answers; one that cannot takes no other's with it, and
        none is waited for."""
        collector = _Collector()
        model = model._replace(patience_s=0.0)
        try:
            await self._forwarder.send(scope, model.prefix + path, upload, collector.send, model)
        except (ServingError, AnswerCut) as exc:
            release(exc)
            error = (
                exc if isinstance(exc, ServingError) else Unavailable(f"{model.name}: no answer")
            )
            await protocol.render_error(error).send(collector.send, takes_views=False)
        return collector.answer()

    def _list(self, headers: Mapping[bytes, bytes]) -> Response:
        """Answer browsers with a page of the models, programs with JSON."""
        models = list(self._directory)
        if pages.is_wanted(headers.get(b"accept", b"").decode("latin-1")):
            rows = [pages.ModelLink(each.name, each.prefix, each.is_ready) for each in models]
            return Response(pages.model_list(rows), media_type=pages.MEDIA_TYPE)
        described = [
            {"name": each.name, "path": each.prefix, "ready": each.is_ready} for each in models
        ]
        document = {"models": described, "protocols": list(self._settings.protocols)}
        return Response(json.encode(document), media_type=JSON)

    async def _document(self, scope: Scope) -> Response:
        document = await asyncio.to_thread(
            openapi.write_document,
            "Models",
            tuple(each.fragment() for each in import_protocols(self._settings.protocols)),
            base_path=scope.get("root_path", ""),
            models=tuple(self._directory.names),
        )
        return Response(document, media_type=JSON)


class _Collector:
    """Takes an answer instead of a client."""

    def __init__(self) -> None:
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = {
                name.decode("latin-1"): value.decode("latin-1")
                for name, value in message["headers"]
                if name not in OF_ONE_MODEL
            }
        else:
            self._body += message.get("body", b"")

    def answer(self) -> Answer:
        return Answer(self._status, bytes(self._body), self._headers)


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """Return a request's headers, lines of one name as one (RFC 9110, section 5.3): of two that
    name a model none is dropped."""
    lines = scope.get(CLIENT_HEADERS) or scope["headers"]
    headers = dict(lines)
    if len(headers) < len(lines):
        for name in headers:
            headers[name] = b", ".join(value for each, value in lines if each == name)
    return headers
