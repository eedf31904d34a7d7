"""The ASGI app of a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from starlette.types import Message, Receive, Scope, Send

from rayserve_app import openapi, pages
from rayserve_app.codecs import json
from rayserve_app.cors import with_cors
from rayserve_app.errors import (
    DecodeError,
    ModelNotFound,
    ServingError,
    Unavailable,
    let_go,
)
from rayserve_app.gateway.forwarding import MARK, ClientLeft, Forwarder, Upload
from rayserve_app.gateway.merging import Answer, merge_answers
from rayserve_app.gateway.replicas import Connections, Directory, ServedModel
from rayserve_app.gateway.routes import Choice, Destination, create_router
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.http import (
    BodyBudget,
    Response,
    error_response,
    no_such_method,
    no_such_path,
    run_plain,
)
from rayserve_app.ingress import CLIENT_HEADERS
from rayserve_app.protocols.protocol import Protocol, listed, shortened
from rayserve_app.protocols.sagemaker.names import AlreadyLoaded
from rayserve_app.types import Buffer

INLINE_BYTES: Final = 1 << 16

JSON: Final = "application/json"

MAX_ALIASES: Final = 10_000

DEFAULT_NAME: Final = "default"
"""What simple_tensorflow_serving calls the model that requests mean which name none."""

OWN_PATHS: Final = ("/", "/openapi.json")

READ_TYPES: Final = (b"application/json", b"application/x-amz-json")

AWS: Final = "sagemaker_runtime"

TARGET: Final = b"x-amz-target"
"""The header by which AWS's JSON protocol can be told from what else is posted to `/`."""

AWS_KEYS: Final = ("EndpointName", "EndpointConfigName")
"""An endpoint's configuration has the endpoint's name."""

Claimant: TypeAlias = tuple[Destination, Mapping[str, str]]
"""Whose a path may be, with the values of its parameters."""


class Gateway:
    """Forwards each request to the model that it is for."""

    def __init__(self, settings: GatewaySettings, directory: Directory) -> None:
        self._settings = settings
        self._answer_any = with_cors(self._answer, settings.cors)
        self._directory = directory
        self._router = create_router(settings)
        self._budget = BodyBudget(settings.max_buffered_mb)
        self._aliases: dict[str, str] = {}
        """Models' names by further ones that clients have given them."""
        self.connections = Connections()
        self._forwarder = Forwarder(self.connections, settings.order)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await run_plain(self._answer_any, scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        method = scope["method"]
        claims = self._router.find(path)
        claimants = claims.get("GET" if method == "HEAD" else method)
        with_body = method != "HEAD"
        headers = _headers(scope)
        if MARK in headers:
            response = error_response(508, "This request has been forwarded already: it would loop")
        elif path in OWN_PATHS and method in ("GET", "HEAD"):
            response = self._list(headers) if path == "/" else await self._document(scope)
        elif claimants:
            destination, params = self._choose(claimants, headers)
            try:
                await self._follow(destination, params, path, headers, scope, receive, send)
            except ClientLeft:
                return
            except ServingError as exc:
                let_go(exc)
                response = destination.protocol.render_error(exc)
            else:
                return
        elif claims:
            response = no_such_method(method, claims)
        else:
            response = no_such_path(path, self._router.paths)
        await response.send(send, takes_views=False, with_body=with_body)

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
            if destination.choice is Choice.ALL:
                await self._read(upload)
                response = (await self._ask_all(path, scope, upload)).response()
                await response.send(send, takes_views=False, with_body=scope["method"] != "HEAD")
                return
            if destination.choice is Choice.LOAD:
                response = await self._load(path, scope, upload, destination.protocol)
                await response.send(send, takes_views=False)
                return
            name = params.get("model")
            if destination.choice is Choice.READ and _is_json(headers):
                await self._read(upload)
                name = await self._named_in(upload, headers)
            model = self._find(name, destination.protocol)
            if destination.choice is Choice.PREFIXED:
                path = path.removeprefix(f"/{name}")
            await self._forwarder.send(scope, model.prefix + path, upload, send, model)
        finally:
            upload.give_back()

    def _choose(self, claimants: Sequence[Claimant], headers: Mapping[bytes, bytes]) -> Claimant:
        """Return whose request it is: AWS's JSON protocol has a header, and of the others the first
        that knows a model."""
        if len(claimants) == 1:
            return claimants[0]
        is_aws = TARGET in headers
        meant = [each for each in claimants if (each[0].protocol.name == AWS) == is_aws]
        known = [
            each
            for each in meant
            if each[0].choice is not Choice.DEFAULT
            or self._settings.default_for(each[0].protocol.name) is not None
        ]
        return (known or meant or claimants)[0]

    def _find(self, name: str | None, protocol: type[Protocol]) -> ServedModel:
        """Return the model of a name; without one, or if it is DEFAULT_NAME, the protocol's default
        model, which an only model is."""
        names = self._directory.names
        if name is None or (name == DEFAULT_NAME and name not in names):
            name = self._settings.default_for(protocol.name)
            if name is None and len(names) == 1:
                name = names[0]
        if name is None:
            raise ModelNotFound(
                "This path names no model, and there is no default one",
                expected=f"a path with one of {listed(names)}",
                remedy="Or set args.gateway.default_model",
            )
        # No further name hides a model's own.
        model = self._directory.find(name) or self._directory.find(self._aliases.get(name, ""))
        if model is None:
            raise protocol.unknown_model(name, names)
        return model

    async def _named_in(self, upload: Upload, headers: Mapping[bytes, bytes]) -> str | None:
        """Return the model that a JSON body, which has been read, names; None if it names none."""
        body = upload.start()
        keys = AWS_KEYS if TARGET in headers else ("model_name",)
        if len(body) > INLINE_BYTES:
            name = await asyncio.to_thread(_name_in, body, keys)
        else:
            name = _name_in(body, keys)
        if TARGET in headers and self._directory.find(name or "") is None:
            # Any model says so in AWS's words.
            return self._settings.default_for(AWS) or next(iter(self._directory.names), None)
        return name

    async def _read(self, upload: Upload) -> None:
        settings = self._settings
        await upload.read(
            self._budget,
            max_bytes=int(settings.max_read_mb * 1e6),
            timeout_s=settings.body_timeout_s,
        )

    async def _ask_all(self, path: str, scope: Scope, upload: Upload) -> Answer:
        models = [model for model in self._directory if model.is_ready]
        if not models:
            raise Unavailable("No model has a replica at the moment")
        asked = [self._ask(model, path, scope, upload) for model in models]
        return merge_answers(await asyncio.gather(*asked))

    async def _load(
        self, path: str, scope: Scope, upload: Upload, protocol: type[Protocol]
    ) -> Response:
        """Ask all models for the one that is meant; only they know where they lie."""
        await self._read(upload)
        name = await self._named_in(upload, _headers(scope))
        if name is not None and self._directory.find(name) is not None:
            raise AlreadyLoaded(f"Model {shortened(name)} is already loaded")
        refusal: Answer | None = None
        for model in self._directory:
            answer = await self._ask(model, path, scope, upload)
            if answer.status == 200 and name is not None:
                if len(self._aliases) >= MAX_ALIASES:
                    del self._aliases[next(iter(self._aliases))]
                self._aliases[name] = model.name
            if answer.status != 404:
                return answer.response()
            refusal = refusal or answer
        if refusal is None:
            raise protocol.unknown_model(name or "", [])
        return refusal.response()

    async def _ask(self, model: ServedModel, path: str, scope: Scope, upload: Upload) -> Answer:
        collector = _Collector()
        await self._forwarder.send(scope, model.prefix + path, upload, collector.send, model)
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
            self._settings.protocols,
            base_path=scope.get("root_path", ""),
            models=tuple(self._directory.names),
        )
        return Response(document, media_type=JSON)


class _Collector:
    """Takes an answer instead of a client."""

    def __init__(self) -> None:
        self._status = 0
        self._media_type: str | None = None
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            media_type = dict(message["headers"]).get(b"content-type")
            self._media_type = media_type and media_type.decode("latin-1")
        else:
            self._body += message.get("body", b"")

    def answer(self) -> Answer:
        return Answer(self._status, self._media_type, bytes(self._body))


def _headers(scope: Scope) -> dict[bytes, bytes]:
    return dict(scope.get(CLIENT_HEADERS) or scope["headers"])


def _is_json(headers: Mapping[bytes, bytes]) -> bool:
    return headers.get(b"content-type", b"").startswith(READ_TYPES)


def _name_in(body: Buffer, keys: Sequence[str]) -> str | None:
    try:
        fields = json.decode_object(body)
    except DecodeError:
        return None  # whoever gets it says what is wrong with it
    return next((fields[key] for key in keys if isinstance(fields.get(key), str)), None)
