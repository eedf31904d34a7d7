"""The inference API's routes on one model, and its inputs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple

from rayserve_app.codecs import form, json, lenient_json
from rayserve_app.codecs.image_header import evident_format, is_image
from rayserve_app.codecs.tensorflow.container_headers import HEADER as ATTRIBUTES
from rayserve_app.errors import (
    BackendError,
    BodyTimeout,
    DecodeError,
    InvalidRequest,
    ModelNotFound,
    RequestTooLarge,
    ServingError,
    Unavailable,
    UnsupportedContentType,
)
from rayserve_app.media_types import media_type
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.payloads.items import Payload
from rayserve_app.protocols.protocol import Declined, Means, Protocol, Route, inference, those_known
from rayserve_app.protocols.sagemaker.container import render_error
from rayserve_app.protocols.sagemaker.invocation import Invoker
from rayserve_app.types import Buffer, FailedInvocation
from rayserve_app.web.messages import Request, Response, retry_headers, status_of

# NettyUtils.java, to the letter.
CACHE_HEADERS: Final[Mapping[str, str]] = {
    "pragma": "no-cache",
    "cache-control": "no-cache; no-store, must-revalidate, private",
    "expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}

# The Java classes that errors name, and their statuses where those are not HTTP's own.
CLASSES: Final[Sequence[tuple[type[ServingError], int | None, str]]] = (
    (ModelNotFound, None, "ModelNotFoundException"),
    (Unavailable, None, "ServiceUnavailableException"),
    (BodyTimeout, None, "RequestTimeoutException"),
    (RequestTooLarge, None, "RequestEntityTooLargeException"),
    (UnsupportedContentType, None, "UnsupportedMediaTypeException"),
    (InvalidRequest, None, "BadRequestException"),
    # What a worker's code raises is "Prediction failed" there, with 503.
    (BackendError, 503, "InternalServerException"),
)

FIELDS_WEIGHT: Final = 2
"""Beside parameters of a query, a body is looked through for the number of its values first."""

JSON_STARTS: Final = (b"{", b"[", b'"')

BODY: Final = "body"
"""What a body that is no form is called among the inputs."""


class Part(NamedTuple):
    """One input of a request: a field of a form, a parameter of the query, or the whole body."""

    name: str
    content_type: str | None
    data: Buffer


class MultiModelServer(Protocol):
    """The inference API for one model."""

    name: ClassVar[str] = "multi_model_server"

    # InferenceRequestHandler.java looks at no method but OPTIONS; `curl -T` sends PUT.
    ROUTES: ClassVar = (
        Route("OPTIONS", "/", "describe_api", Means.SERVER),
        Route("GET", "/api-description", "describe_api", Means.SERVER),
        Route("GET", "/ping", "ping"),
        Route("POST", "/invocations", "invocations"),
        Route("POST", "/models/{model}/invoke", "predictions"),
        Route("GET", "/predictions/{model}", "predictions"),
        Route("POST", "/predictions/{model}", "predictions"),
        Route("PUT", "/predictions/{model}", "predictions"),
        Route("OPTIONS", "/predictions/{model}", "describe_model"),
        # Below the model's prefix, this is upstream's `/{model}/predict`.
        Route("GET", "/predict", "predict", Means.BEFORE_IT),
        Route("POST", "/predict", "predict"),
    )

    @classmethod
    def unknown_model(cls, name: str, known: Sequence[str]) -> ServingError:
        return ModelNotFound(f"Model not found: {name[:200]}", remedy=those_known(name, known))

    async def ping(self, _: Request) -> Response:
        # ModelManager.java, workerStatus: always 200, and `status` where the documentation has
        # `health`. A model that serves nobody is no healthy server.
        is_healthy = self.model.is_warm and not self.model.is_stalled
        return _document({"status": "Healthy" if is_healthy else "Unhealthy"})

    @inference
    async def predictions(self, request: Request) -> Response:
        """Upstream reads no query here."""
        return await self._predict(request, [])

    @inference
    async def predict(self, request: Request) -> Response:
        try:
            return await self._predict(request, request.query())
        except InvalidRequest as exc:
            # Other protocols have a body of their own here.
            raise Declined(exc, may_be_mine=True) from exc

    @inference
    async def invocations(self, request: Request) -> Response:
        query = request.query()
        for name, value in query:
            if name == "model_name" and value:
                self.check_name(value)
        return await self._predict(request, [pair for pair in query if pair[0] != "model_name"])

    async def describe_api(self, _: Request) -> Response:
        return self.document_of([self.model.name])

    @classmethod
    def document_of(cls, names: Sequence[str]) -> Response:
        paths = {
            "/api-description": {"get": _operation("apiDescription", "This document.")},
            "/ping": {"get": _operation("ping", "Whether the model is ready.")},
            "/predictions/{model_name}": {
                "parameters": [_path_parameter(names)],
                "post": _operation("predictions", "Predict a body.", has_body=True),
                "options": _operation("predictionsApi", "Describe one model's predictions."),
            },
        }
        return _document(_open_api("Model Serving APIs", paths))

    async def describe_model(self, _: Request) -> Response:
        name = self.model.name
        operation = _operation("predict", "Predict a body.", has_body=True)
        paths = {f"/predictions/{name}": {"post": operation}}
        return _document(_open_api(f"RESTful API for: {name}", paths))

    @classmethod
    def render_error(cls, error: ServingError) -> Response:
        if isinstance(error, FailedInvocation):
            return _marked(render_error(error))
        status, kind = _class_of(error)
        fields = {"code": status, "type": kind, "message": str(error)}
        response = _document(fields, status=status)
        response.headers |= retry_headers(error)
        return response

    async def _predict(self, request: Request, query: Sequence[tuple[str, str]]) -> Response:
        model = self.model
        model.check_admission()
        body, content_type = await request.body(), request.header("content-type")
        invoker = Invoker(
            model,
            content_type=content_type,
            accept=request.list_header("accept"),
            custom_attributes=request.header(ATTRIBUTES),
            headers=request.headers,
        )
        is_form = _is_form(body, content_type)
        if model.settings.input.type == "request":
            field = None
            if is_form:
                work = form.work_bytes(body, content_type)
                field = await model.offload(partial(find_body, body, content_type), work)
            # A form of other fields is for the code itself to read.
            data = body if field is None else field
            is_field = field is not None
            return _marked(await invoker.answer(data, request.timing, is_field=is_field))
        if not (is_form or query):
            return _marked(await invoker.answer(body, request.timing))
        parts = [Part(name, None, value.encode()) for name, value in query]
        reading = partial(read_parts, invoker.inputs, parts, body, content_type)
        if is_form:
            work = form.work_bytes(body, content_type)
        else:
            work = FIELDS_WEIGHT * max(len(body), invoker.inputs.work_bytes(body, content_type))
        return _marked(await invoker.answer_items(reading, work, request.timing))


def find_body(body: Buffer, content_type: str | None) -> Buffer | None:
    """Return the data of a form's field `body`, which is what workers' code takes; of several the
    last one's, None if there is none.

    Raises:
        DecodeError: not a form.
    """
    fields = form.parse(body, content_type)
    return next((each.data for each in reversed(fields) if each.name == BODY), None)


def read_parts(
    inputs: Inputs, query: Sequence[Part], body: Buffer, content_type: str | None
) -> Payload:
    """Read the parameters of a query, and a form's fields or a body beside them.

    A model of several named inputs takes one part for each; any other takes parts of one name,
    whatever that is, of which each is an item.

    Raises:
        InvalidRequest: not such parts.
    """
    parts = list(query)
    if _is_form(body, content_type):
        fields = form.parse(body, content_type)
        parts += [Part(each.name, each.content_type, each.data) for each in fields]
    elif len(body):
        parts.append(Part(BODY, content_type, body))
    parts = [part for part in parts if part.name != "model_name"]
    got = ", ".join(repr(part.name[:50]) for part in parts[:10]) or "none"
    if inputs.settings.type == "tensors":
        columns = {part.name: part for part in parts}
        if len(columns) < len(parts):
            raise DecodeError("An input comes twice", got=got)
        # As of one document: a thousand may be large together.
        if sum(json.count_values(bytes(part.data)) for part in parts) > json.MAX_VALUES:
            raise DecodeError("JSON has too many values", expected=f"at most {json.MAX_VALUES}")
        values = {name: _json(part) for name, part in columns.items()}
        return Payload(inputs.from_json_item(values, path=""), False)
    if len({part.name for part in parts}) != 1:
        raise DecodeError("Not one input", expected=repr(inputs.names[0]), got=got)
    if len(parts) == 1:
        return _read_part(inputs, parts[0], parts[0].name)
    inputs.check_count(len(parts))
    items = [
        item
        for index, part in enumerate(parts)
        for item in _read_part(inputs, part, f"{part.name}[{index}]").items
    ]
    inputs.check_count(len(items))
    return Payload(items, True)


def _is_form(body: Buffer, content_type: str | None) -> bool:
    """Return whether a body is a form: what curl calls one may be an image, or JSON."""
    kind = media_type(content_type)
    if kind == form.URLENCODED and bytes(body[:1]) in JSON_STARTS:
        return False
    return form.is_form(kind) and evident_format(body) is None


def _read_part(inputs: Inputs, part: Part, path: str) -> Payload:
    carries_bytes = inputs.settings.type in ("bytes", "image")
    if part.content_type is None and carries_bytes and not is_image(part.data):
        # Without a file's content type it is text, which stands for bytes as in JSON.
        try:
            text = bytes(part.data).decode()
        except UnicodeDecodeError:
            return inputs.from_body(part.data, None)
        return Payload(inputs.from_json_item(text, path=path), False)
    try:
        return inputs.from_body(part.data, part.content_type)
    except InvalidRequest as exc:
        raise exc.at(path) from exc.__cause__


def _json(part: Part) -> Any:
    try:
        return lenient_json.decode(part.data)
    except DecodeError as exc:
        raise exc.at(part.name) from exc.__cause__


def _class_of(error: ServingError) -> tuple[int, str]:
    for kind, status, name in CLASSES:
        if isinstance(error, kind):
            return status or status_of(error), name
    return status_of(error), "InternalServerException"


def _marked(response: Response) -> Response:
    """Add what every answer has: an id, and that nobody may keep it."""
    response.headers |= {"x-request-id": str(uuid.uuid4()), **CACHE_HEADERS}
    return response


def _document(value: Mapping[str, Any], *, status: int = 200) -> Response:
    return _marked(
        Response(json.encode(value) + b"\n", status=status, media_type="application/json")
    )


def _open_api(title: str, paths: Mapping[str, Any]) -> dict[str, Any]:
    return {"openapi": "3.0.1", "info": {"title": title, "version": "1.0.0"}, "paths": paths}


def _operation(name: str, summary: str, *, has_body: bool = False) -> dict[str, Any]:
    content = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": "OK", "content": content}},
    }
    if has_body:
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _path_parameter(names: Sequence[str]) -> dict[str, Any]:
    schema = {"type": "string"} | ({"enum": list(names)} if names else {})
    return {"name": "model_name", "in": "path", "required": True, "schema": schema}
