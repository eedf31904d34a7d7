"""The routes of TensorFlow Serving's REST API, on one model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

from rayserve_app.codecs import json
from rayserve_app.codecs.tensorflow.document import (
    decode_document,
    instances_of,
    signature_name,
)
from rayserve_app.codecs.tensorflow.examples import read_examples
from rayserve_app.codecs.tensorflow.reply import render_error
from rayserve_app.errors import InvalidRequest, ModelNotFound, ServingError, VersionNotFound
from rayserve_app.inference.model import INLINE_BYTES
from rayserve_app.inference.servables import Servable
from rayserve_app.payloads.items import Encoded
from rayserve_app.protocols.protocol import Declined, Protocol, Route, inference, rows, those_known
from rayserve_app.protocols.tensorflow_serving.items import (
    read_features,
    read_inputs,
    read_instances,
)
from rayserve_app.protocols.tensorflow_serving.metadata import render_metadata, render_status
from rayserve_app.protocols.tensorflow_serving.results import (
    classifications,
    outputs,
    predictions,
    regressions,
    written_bytes,
)
from rayserve_app.protocols.writing import written
from rayserve_app.types import Buffer, Row
from rayserve_app.web import content_coding
from rayserve_app.web.content_coding import CODINGS
from rayserve_app.web.messages import Request, Response, retry_headers, status_of

JSON: Final = "application/json"

MAX_VERSION: Final = 2**63 - 1

MAX_QUOTED: Final = 200
"""Characters of a path that an error repeats."""

_MODEL: Final = "/v1/models/{model}"
_CHOICES: Final = (_MODEL, f"{_MODEL}/versions/{{version}}", f"{_MODEL}/labels/{{label}}")


Select: TypeAlias = Callable[[str | None], Servable]

Render: TypeAlias = Callable[[Sequence[Row]], bytes]


class Query(NamedTuple):
    """A parsed request: its items, and what writes their results."""

    servable: Servable
    items: Sequence[Encoded]
    render: Render


Parse: TypeAlias = Callable[[dict[str, Any], Select], Query]


def parse_predict(document: dict[str, Any], select: Select) -> Query:
    """Read a predict request, in row or columnar form.

    Args:
        select: returns what the named signature is, None for the default one.
    Raises:
        InvalidRequest: the request does not fit the signature, or there is none.
    """
    servable = select(signature_name(document))
    specs = servable.metadata.outputs
    instances = instances_of(document)
    if instances is not None:
        render = partial(predictions, specs=specs)
        return Query(servable, read_instances(instances, servable), render)
    payload = read_inputs(document["inputs"], servable)
    render = partial(outputs, specs=specs, is_batch=payload.is_batch)
    return Query(servable, payload.items, render)


def parse_examples(document: dict[str, Any], select: Select, *, render: Render) -> Query:
    """Read a classify or regress request."""
    servable = select(signature_name(document))
    return Query(servable, read_features(read_examples(document), servable), render)


class TensorFlowServing(Protocol):
    """The API for one model, whose versions and signatures are upstream's."""

    name: ClassVar[str] = "tensorflow_serving"

    # http_rest_api_util.cc, kPredictionApiGegex and kModelStatusApiRegex.
    ROUTES: ClassVar = (
        Route("GET", "/v1/models", "no_name"),
        *(Route("GET", path, "status") for path in _CHOICES),
        *(Route("GET", f"{path}/metadata", "metadata") for path in _CHOICES),
        *(
            Route("POST", f"{path}:{method}", method)
            for path in _CHOICES
            for method in ("predict", "classify", "regress")
        ),
    )

    @inference
    async def predict(self, request: Request) -> Response:
        return await self._answer(request, parse_predict)

    @inference
    async def classify(self, request: Request) -> Response:
        return await self._answer(request, partial(parse_examples, render=classifications))

    @inference
    async def regress(self, request: Request) -> Response:
        return await self._answer(request, partial(parse_examples, render=regressions))

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
        body = render_metadata(self.model.name, version, servables)
        return Response(body, media_type=JSON)

    async def no_name(self, _: Request) -> Response:
        # Another server's list of models, where it speaks that protocol as well.
        raise Declined(InvalidRequest("Missing model name in request."))

    @classmethod
    def unknown_model(cls, name: str, known: Sequence[str]) -> ServingError:
        if ":" in name:  # GET of a path that is there to POST to
            return InvalidRequest(f"Malformed request: /v1/models/{name[:200]}")
        return ModelNotFound(
            f"Servable not found for request: Latest({name[:200]})",
            remedy=those_known(name, known),
        )

    @classmethod
    def refuse_method(cls, method: str, path: str) -> ServingError | None:
        # http_rest_api_handler.cc, ProcessRequest: what no expression matches, `:foo` after a
        # name like a name without a verb.
        return InvalidRequest(f"Malformed request: {method} {path[:MAX_QUOTED]}")

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

    async def _answer(self, request: Request, parse: Parse) -> Response:
        model = self.model
        model.check_admission()
        select = self._select(request)
        body = await request.body(CODINGS)
        reading = partial(self._read, body, request.content_coding, parse, select)
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

    def _read(self, body: Buffer, coding: str, parse: Parse, select: Select) -> Query:
        if coding != "identity":
            max_bytes = int(self.model.settings.limits.max_body_mb * 1e6)
            body = content_coding.decode(body, coding, max_bytes=max_bytes)
        return parse(decode_document(body), select)

    def _select(self, request: Request) -> Select:
        """Return what finds the servable of a request's path by the signature in its body."""
        version = self._version(request)

        def select(signature: str | None) -> Servable:
            try:
                return self.model.select(version, signature)
            except VersionNotFound as exc:
                raise VersionNotFound(
                    f"Servable not found for request: Specific({self.model.name}, {version})"
                ) from exc
            except InvalidRequest as exc:
                raise InvalidRequest(
                    f'Serving signature name: "{signature}" not found in signature def'
                ) from exc

        return select

    def _version(self, request: Request) -> str | None:
        """Return the version that a request's path asks for, None for the default one."""
        label, digits = request.path_params.get("label"), request.path_params.get("version")
        if label is not None:
            labels = self.model.settings.protocol_settings.tensorflow_serving.version_labels
            if label not in labels:
                raise InvalidRequest(f"Unrecognized servable version label: {label}")
            return labels[label]
        # Upstream's versions are numbers; a model's own name for one is as good.
        if digits is None or any(each.version == digits for each in self.model.versions):
            return digits
        if not re.fullmatch("[0-9]+", digits):
            path = request.path[request.path.find("/v1/models/") :]
            raise InvalidRequest(f"Malformed request: {request.method} {path}")
        digits = digits.lstrip("0") or "0"
        if len(digits) > len(str(MAX_VERSION)) or int(digits) > MAX_VERSION:
            raise InvalidRequest(f"Failed to convert version: {digits} to numeric.")
        return digits
