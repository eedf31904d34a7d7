"""The routes of the Open Inference Protocol v2, on one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final

from rayserve_app.codecs import json
from rayserve_app.errors import (
    DeadlineExceeded,
    DecodeError,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    NotAcceptable,
    ServingError,
    UnsupportedContentType,
    VersionNotFound,
)
from rayserve_app.inference.model import Model
from rayserve_app.inference.servables import Servable
from rayserve_app.media_types import OCTETS
from rayserve_app.payloads.items import Payload
from rayserve_app.protocols.open_inference import documents
from rayserve_app.protocols.open_inference.messages import (
    LENGTH_HEADER,
    InferenceRequest,
    InferenceResponse,
    header_length,
    parse,
    present,
    render,
)
from rayserve_app.protocols.open_inference.settings import OpenInferenceSettings
from rayserve_app.protocols.open_inference.tensors import (
    check_outputs,
    columns_of,
    output_tensors,
    read_items,
    read_raw,
    read_work_bytes,
    result_bytes,
)
from rayserve_app.protocols.protocol import Means, Protocol, Route, inference, rows, those_known
from rayserve_app.protocols.writing import writing_bytes, written
from rayserve_app.types import Buffer, Row
from rayserve_app.web import content_coding
from rayserve_app.web.content_coding import CODINGS
from rayserve_app.web.messages import Request, Response, retry_headers, status_of

MAX_COMPRESSED_BYTES: Final = 1 << 23
"""Larger answers go as they are, whatever `Accept-Encoding` says: compressing tensors takes longer
than sending them, and others wait for the thread."""

MODEL: Final = "/v2/models/{model}"
VERSION: Final = "/v2/models/{model}/versions/{version}"
MEMORY: Final = ("/v2/systemsharedmemory", "/v2/cudasharedmemory")

WITHOUT: Final = {
    "trace": "the server does not support tracing",
    "logging": "the server does not support dynamic logging",
    "sharedmemory": "the server does not support shared memory",
}


class OpenInference(Protocol):
    """All routes of the protocol for one model, which is its server's only one."""

    name: ClassVar[str] = "open_inference"

    settings_type = OpenInferenceSettings

    ROUTES: ClassVar = (
        Route("GET", "/v2", "describe_server", Means.ALL),
        Route("GET", "/v2/health/live", "live", Means.ALL),
        Route("GET", "/v2/health/ready", "ready", Means.ALL),
        # Before `{model}`: "stats" is no model.
        Route("GET", "/v2/models/stats", "statistics", Means.ALL),
        *(
            Route(method, base + path, handler)
            for base in (MODEL, VERSION)
            for method, path, handler in (
                ("GET", "", "describe_model"),
                ("GET", "/ready", "model_ready"),
                ("GET", "/config", "config"),
                ("GET", "/stats", "statistics"),
                ("POST", "/infer", "infer"),
            )
        ),
        Route("POST", "/v2/repository/index", "index", Means.ALL),
        Route("POST", "/v2/repository/models/{model}/load", "load"),
        Route("POST", "/v2/repository/models/{model}/unload", "unload"),
        *(
            Route(method, path, "refuse")
            for path in ("/v2/trace/setting", MODEL + "/trace/setting", "/v2/logging")
            for method in ("GET", "POST")
        ),
        *(
            Route(method, base + path, "refuse")
            for base in MEMORY
            for method, path in (
                ("GET", "/status"),
                ("GET", "/region/{region}/status"),
                ("POST", "/region/{region}/register"),
                ("POST", "/region/{region}/unregister"),
                ("POST", "/unregister"),
            )
        ),
    )

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._control = model.settings.of_protocol(self.name, OpenInferenceSettings).model_control
        self._is_loaded = True

    async def describe_server(self, _: Request) -> Response:
        return _json(documents.server_metadata())

    async def live(self, _: Request) -> Response:
        # The specification's example of readiness says `live` too, and KServe's client reads
        # `ready`: both answers have both.
        return _json({"live": True, "ready": self._fault() is None})

    async def ready(self, _: Request) -> Response:
        is_ready = self._fault() is None
        return _json({"live": True, "ready": is_ready}, status=200 if is_ready else 400)

    async def describe_model(self, request: Request) -> Response:
        return _json(documents.model_metadata(self.model, self._servable(request)))

    async def model_ready(self, request: Request) -> Response:
        try:
            self._servable(request)
            is_ready = self._fault() is None
        except (ModelNotFound, ModelNotReady, VersionNotFound):
            is_ready = False
        # 400 for no (http_server.cc, HandleModelReady).
        return _json({"name": self.model.name, "ready": is_ready}, status=200 if is_ready else 400)

    async def config(self, request: Request) -> Response:
        return _json(documents.model_config(self.model, self._servable(request)))

    async def statistics(self, request: Request) -> Response:
        chosen: Sequence[Servable] = documents.default_servables(self.model)
        if "version" in request.path_params:
            chosen = [self._servable(request)]
        elif "model" in request.path_params:
            self._check_loaded()
        elif not self._is_loaded:
            chosen = []
        return _json({"model_stats": [documents.model_statistics(self.model, s) for s in chosen]})

    @inference
    async def infer(self, request: Request) -> Response:
        servable, model = self._servable(request), self.model
        model.check_admission()
        body = await self._body(request)
        length = header_length(request.header(LENGTH_HEADER.lower()), len(body))
        if length == 0:
            message, payload = await self._read_raw(body, servable)
        else:
            work = json.work_bytes(memoryview(body)[:length])
            message = await model.offload(partial(parse, body, length), work)
            check_outputs(message.outputs, servable.metadata, model.name)
            reading = model.offload(
                partial(_read, message, servable, model.name),
                work + read_work_bytes(message, servable.inputs),
            )
            del message  # its values are freed where they are read
            message, payload = await reading
        coding = content_coding.choose(request.list_header("accept-encoding"))
        return await written(
            model,
            rows(await model.predict(payload.items, servable=servable, timing=request.timing)),
            partial(self._write, message=message, servable=servable, coding=coding),
            work_bytes=partial(_writing_bytes, message=message, coding=coding),
        )

    async def index(self, request: Request) -> Response:
        only_ready = await self._parameter(request, "ready", bool, False)
        state, reason = self._state()
        versions = [each.version for each in documents.default_servables(self.model)]
        if only_ready and state != "READY":
            versions = []
        return _json(
            documents.repository_index(self.model.name, versions, state=state, reason=reason)
        )

    async def load(self, request: Request) -> Response:
        parameters = present(await self._parameter(request, "parameters", dict, {}))
        if parameters:
            # Triton takes another configuration, and files, from clients.
            raise InvalidRequest(
                "The model is loaded as its application declares it",
                expected="no parameters",
                got=", ".join(sorted(parameters)),
                path="parameters",
            )
        self._is_loaded = True
        return Response()

    async def unload(self, request: Request) -> Response:
        await self._parameter(request, "parameters", dict, {})
        if self._control == "none":
            raise InvalidRequest(
                "explicit model load / unload is not allowed",
                path="protocol_settings.open_inference.model_control",
                remedy="Set it to `explicit` in an application of one replica.",
            )
        self._is_loaded = False
        return Response()

    async def refuse(self, request: Request) -> Response:
        # As a Triton that is built without them, but for its status, 501.
        raise InvalidRequest(next(text for part, text in WITHOUT.items() if part in request.path))

    def schema_examples(self) -> Mapping[str, Any]:
        default = self.model.versions.default
        return {
            "OpenInferenceMetadata": documents.model_metadata(self.model, default),
            "OpenInferenceConfig": documents.model_config(self.model, default),
        }

    @classmethod
    def unknown_model(cls, name: str, known: Sequence[str]) -> ServingError:
        return ModelNotFound(
            f"Request for unknown model: '{name[:200]}' is not found",
            remedy=those_known(name, known),
        )

    @classmethod
    def render_error(cls, error: ServingError) -> Response:
        """Errors are `{"error"}`. Triton's map: NOT_FOUND 404, UNAVAILABLE 503, INTERNAL 500, all
        others 400; a request that is too late is UNAVAILABLE to it. Too large, too slow and of an
        unknown content coding are ours and keep HTTP's own statuses."""
        status = status_of(error)
        headers = retry_headers(error)
        if isinstance(error, NotAcceptable):
            status = 400
        elif isinstance(error, DeadlineExceeded):
            status = 503
        elif isinstance(error, UnsupportedContentType):
            headers["accept-encoding"] = ", ".join(CODINGS)
        return _json({"error": str(error)}, status=status, headers=headers)

    async def _read_raw(self, body: Buffer, servable: Servable) -> tuple[InferenceRequest, Payload]:
        work = servable.inputs.work_bytes(body, OCTETS)
        reading = partial(read_raw, body, servable, self.model.name)
        return InferenceRequest((), is_binary=True), await self.model.offload(reading, work)

    def _write(
        self, found: Sequence[Row], *, message: InferenceRequest, servable: Servable, coding: str
    ) -> Response:
        columns = columns_of(found)
        self.model.observed_outputs.add(servable, columns)
        outputs = output_tensors(
            columns, message.outputs, self.model.name, servable.metadata.outputs
        )
        binary = dict.fromkeys((each.name for each in outputs), message.is_binary)
        binary |= {each.name: each.is_binary for each in message.outputs}
        buffers, length = render(
            InferenceResponse(self.model.name, servable.version, outputs, message.id), binary
        )
        headers = {} if length is None else {LENGTH_HEADER: str(length)}
        if coding != "identity" and sum(map(len, buffers)) <= MAX_COMPRESSED_BYTES:
            # The length is that of the JSON before compression (extension_binary_data.md).
            buffers = content_coding.encode(buffers, coding)
            headers["content-encoding"] = coding
        media_type = "application/json" if length is None else OCTETS
        return Response(buffers, media_type=media_type, headers=headers)

    async def _body(self, request: Request) -> Buffer:
        body = await request.body(codings=CODINGS)
        coding = request.content_coding
        if coding == "identity":
            return body
        most = int(request.limits.max_body_mb * 1e6)
        # A small body may become a large one.
        return await self.model.offload(
            partial(content_coding.decode, body, coding, max_bytes=most), most
        )

    async def _parameter(self, request: Request, name: str, kind: type, default: Any) -> Any:
        """Return a field of a body that may be empty."""
        body = await request.body()
        if not body:
            return default
        fields = await self.model.offload(partial(json.decode_object, body), len(body))
        value = present(fields).get(name, default)
        if not isinstance(value, kind):
            raise DecodeError(f"Unable to parse '{name}'", expected=kind.__name__)
        return value

    def _servable(self, request: Request) -> Servable:
        """Return what the path's version names.

        Raises:
            ModelNotFound, ModelNotReady, VersionNotFound: in Triton's words (model_lifecycle.cc,
                GetModel).
        """
        version = request.path_params.get("version")
        prefix = f"Request for unknown model: '{self.model.name}'"
        try:
            servable = self.model.select(version)
        except VersionNotFound as exc:
            raise VersionNotFound(
                f"{prefix} version {version} is not found", expected=exc.expected
            ) from exc
        if version is None:
            self._check_loaded()
        elif not self._is_loaded:
            raise ModelNotReady(f"{prefix} version {version} is not at ready state")
        return servable

    def _check_loaded(self) -> None:
        if not self._is_loaded:
            raise ModelNotFound(
                f"Request for unknown model: '{self.model.name}' has no available versions"
            )

    def _fault(self) -> ModelNotReady | None:
        """Return why the model is not ready, apart from being unloaded."""
        try:
            self.model.check_ready()
        except ModelNotReady as exc:
            return exc
        return None

    def _state(self) -> tuple[str, str]:
        """Return the model's state and its reason, as Triton calls them."""
        if not self._is_loaded:
            return "UNAVAILABLE", "unloaded"
        fault = self._fault()
        if fault is None:
            return "READY", ""
        return "UNAVAILABLE" if self.model.is_warm else "LOADING", str(fault)


def _read(
    message: InferenceRequest, servable: Servable, model_name: str
) -> tuple[InferenceRequest, Payload]:
    """Read a request's items; return it without its inputs, whose values may take long to free."""
    payload = read_items(message, servable, model_name)
    return message._replace(inputs=()), payload


def _writing_bytes(found: Sequence[Row], *, message: InferenceRequest, coding: str) -> int:
    work = writing_bytes(found, "raw" if message.is_all_binary else "json")
    is_costly = coding != "identity" or any(each.classes for each in message.outputs)
    return max(work, result_bytes(found)) if is_costly else work


def _json(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        json.encode(value), status=status, media_type="application/json", headers=headers
    )
