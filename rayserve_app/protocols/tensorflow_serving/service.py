"""The routes of TensorFlow Serving's REST API, on one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Final, TypeAlias

from rayserve_app.codecs import json
from rayserve_app.codecs.tensorflow.document import decode_document
from rayserve_app.codecs.tensorflow.reply import render_error
from rayserve_app.errors import InvalidRequest, ServingError, VersionNotFound
from rayserve_app.inference.model import INLINE_BYTES
from rayserve_app.inference.servables import Servable
from rayserve_app.protocols.protocol import (
    Declined,
    Means,
    Protocol,
    Route,
    inference,
    rows,
    those_known,
)
from rayserve_app.protocols.tensorflow_serving import rest
from rayserve_app.protocols.tensorflow_serving.metadata import (
    describe_signature,
    render_metadata,
    render_status,
)
from rayserve_app.protocols.tensorflow_serving.queries import Query, Reader
from rayserve_app.protocols.tensorflow_serving.results import written_bytes
from rayserve_app.protocols.tensorflow_serving.settings import TensorFlowServingSettings
from rayserve_app.protocols.writing import written
from rayserve_app.types import Buffer
from rayserve_app.web import content_coding
from rayserve_app.web.content_coding import CODINGS
from rayserve_app.web.messages import Request, Response, retry_headers, status_of

JSON: Final = "application/json"

_MODEL: Final = "/v1/models/{model}"
_CHOICES: Final = (_MODEL, f"{_MODEL}/versions/{{version}}", f"{_MODEL}/labels/{{label}}")


Select: TypeAlias = Callable[[str | None], Servable]


class TensorFlowServing(Protocol):
    """The API for one model, whose versions and signatures are upstream's."""

    name: ClassVar[str] = "tensorflow_serving"

    settings_type = TensorFlowServingSettings

    # http_rest_api_util.cc, kPredictionApiGegex and kModelStatusApiRegex.
    ROUTES: ClassVar = (
        Route("GET", "/v1/models", "no_name", Means.ALL),
        *(Route("GET", path, "status") for path in _CHOICES),
        *(Route("GET", f"{path}/metadata", "metadata") for path in _CHOICES),
        *(Route("POST", f"{path}:{method}", method) for path in _CHOICES for method in rest.VERBS),
    )

    @inference
    async def predict(self, request: Request) -> Response:
        return await self._answer(request, "predict")

    @inference
    async def classify(self, request: Request) -> Response:
        return await self._answer(request, "classify")

    @inference
    async def regress(self, request: Request) -> Response:
        return await self._answer(request, "regress")

    async def status(self, request: Request) -> Response:
        versions = {servable.version for servable in self.model.versions}
        version = self._version(request)
        if version is not None:
            if version not in versions:
                raise VersionNotFound(
                    f"Could not find version {version} of model {self.model.name}"
                )
            versions = {version}
        return Response(render_status(versions, self._state), media_type=JSON)

    async def metadata(self, request: Request) -> Response:
        version = self._select(request)(None).version
        servables = [
            (each, self.model.observed_outputs.of(each))
            for each in self.model.versions
            if each.version == version
        ]
        body = render_metadata(
            self.model.name,
            version,
            {each.signature: describe_signature(each, outputs) for each, outputs in servables},
        )
        return Response(body, media_type=JSON)

    async def no_name(self, _: Request) -> Response:
        # Another server's list of models, where it speaks that protocol as well.
        raise Declined(rest.no_name())

    @classmethod
    def unknown_model(cls, name: str, known: Sequence[str]) -> ServingError:
        if ":" in name:  # GET of a path that is there to POST to
            return rest.malformed(f"/v1/models/{name[: rest.MAX_QUOTED]}")
        return rest.no_model(name, those_known(name, known))

    @classmethod
    def refuse_method(cls, method: str, path: str) -> ServingError | None:
        # http_rest_api_handler.cc, ProcessRequest: what no expression matches, `:foo` after a
        # name like a name without a verb.
        return rest.malformed(f"{method} {path[: rest.MAX_QUOTED]}")

    @classmethod
    def render_error(cls, error: ServingError) -> Response:
        # Upstream's map of statuses (http_server.cc) is ours, which has more: bodies that are too
        # large, too slow or of an unknown coding keep the statuses that HTTP has for them.
        return Response(
            render_error(str(error)),
            status=status_of(error),
            media_type=JSON,
            headers=retry_headers(error),
        )

    @property
    def _state(self) -> str:
        """The state of all versions, ModelVersionStatus.State: they load and stop together."""
        if not self.model.is_warm:
            return "LOADING"
        return "UNLOADING" if self.model.is_stalled else "AVAILABLE"

    async def _answer(self, request: Request, verb: str) -> Response:
        model = self.model
        model.check_admission()
        select = self._select(request)
        body = await request.body(CODINGS)
        reading = partial(self._read, body, request.content_coding, verb, select)
        is_plain = request.content_coding == "identity"
        # What is compressed may be large.
        size = json.work_bytes(body) if is_plain else INLINE_BYTES + 1
        query = await model.offload(reading, size)
        answer = await written(
            model,
            rows(await model.predict(query.items, servable=query.servable, timing=request.timing)),
            query.render,
            work_bytes=written_bytes,
        )
        return Response(answer, media_type=JSON)

    def _read(self, body: Buffer, coding: str, verb: str, select: Select) -> Query:
        if coding != "identity":
            max_bytes = int(self.model.settings.limits.max_body_mb * 1e6)
            body = content_coding.decode(body, coding, max_bytes=max_bytes)
        return rest.take(verb, decode_document(body), lambda signature: Reader(select(signature)))

    def _select(self, request: Request) -> Select:
        """Return what finds the servable of a request's path by the signature in its body."""
        version = self._version(request)

        def select(signature: str | None) -> Servable:
            try:
                return self.model.select(version, signature)
            except VersionNotFound as exc:
                raise rest.no_version(self.model.name, version or "") from exc
            except InvalidRequest as exc:
                raise rest.no_signature(signature) from exc

        return select

    def _version(self, request: Request) -> str | None:
        """Return the version that a request's path asks for, None for the default one."""
        label, digits = request.path_params.get("label"), request.path_params.get("version")
        if label is not None:
            settings = self.model.settings.of_protocol(self.name, TensorFlowServingSettings)
            if label not in settings.version_labels:
                raise rest.no_label(label)
            return settings.version_labels[label]
        # Upstream's versions are numbers; a model's own name for one is as good.
        if digits is None or any(each.version == digits for each in self.model.versions):
            return digits
        path = request.path[request.path.find("/v1/models/") :]
        return rest.read_version(digits, f"{request.method} {path}")
