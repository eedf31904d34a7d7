"""One body in by its content type, one body out as `Accept` asks: what SageMaker's containers, its
runtime API and Multi Model Server have in common.

A model that takes whole requests gets body and headers as they came, and its answer is sent as it
is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Literal, TypeAlias

from rayserve_app.codecs import json_lines
from rayserve_app.codecs.json import work_bytes as json_work_bytes
from rayserve_app.codecs.plain_values import utf8
from rayserve_app.codecs.tensorflow.container_headers import tfs_attributes
from rayserve_app.errors import (
    DecodeError,
    InvalidRequest,
    ModelNotFound,
    NotAcceptable,
    PredictError,
    release,
)
from rayserve_app.inference.model import Model
from rayserve_app.media_types import OUTPUTS, media_type, ranked
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.payloads.items import Encoded, Payload
from rayserve_app.payloads.outputs import MEDIA_TYPES, encode, flat_shapes, json_value, negotiate
from rayserve_app.process.timing import Timing
from rayserve_app.protocols.protocol import rows, shortened
from rayserve_app.protocols.sagemaker import documents
from rayserve_app.protocols.tensorflow_serving import rest
from rayserve_app.protocols.tensorflow_serving.results import written_bytes
from rayserve_app.protocols.writing import writing_bytes, written
from rayserve_app.settings.model import OutputCodec
from rayserve_app.types import Buffer, Invocation, Reply, Row
from rayserve_app.web.messages import Response, did_you_mean

Form: TypeAlias = OutputCodec | Literal["json_lines"]

NO_HEADER_VALUE: Final = r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]"

LINES_WEIGHT: Final = 128
"""Each line is a document of its own."""

TEXTS_PER_BYTE: Final = 16
"""So much text is as quickly encoded as a byte of JSON is read."""

HEADER_NAME: Final = r"[!#$%&'*+.^_`|~0-9a-z-]+"
"""RFC 9110, section 5.1, in lower case."""

CONNECTIONS_OWN: Final = frozenset(
    {"connection", "content-length", "date", "keep-alive", "server", "trailer", "transfer-encoding"}
    | {"upgrade"}
)
"""What the connection, not user code, says of an answer."""

Headers: TypeAlias = tuple[tuple[str, str], ...]


class Invoker:
    """One request to a model, all of it but its body."""

    def __init__(
        self,
        model: Model,
        *,
        content_type: str | None,
        accept: str | None,
        custom_attributes: str | None = None,
        headers: Callable[[], Headers] = tuple,
    ) -> None:
        """Choose what will answer, and in which form.

        Args:
            headers: returns those of the request, which a model that takes whole requests gets.
        Raises:
            NotAcceptable, VersionNotFound, ModelNotFound, InvalidRequest: nothing here answers
                what the headers ask for.
        """
        self._model = model
        self._content_type = content_type
        self._takes_requests = model.settings.input.type == "request"
        self._told = (content_type, accept, custom_attributes)
        self._headers = headers() if self._takes_requests else ()
        self._servable = model.versions.default
        self._forms: Sequence[Form] = ()
        self._version: str | None = None
        self._method = "predict"
        if not self._takes_requests:
            self._forms = choose_forms(accept, model.settings.output.codec)
            self._version, self._method = asked_of(custom_attributes, model)
            self._servable = model.select(self._version)

    @property
    def inputs(self) -> Inputs:
        """What reads the items."""
        return self._servable.inputs

    async def answer(self, body: Buffer, timing: Timing, *, is_field: bool = False) -> Response:
        """Predict what a body holds.

        Args:
            is_field: whether it is a field of a form, for a model that takes whole requests.
        Raises:
            ServingError: the body does not fit, or the model fails.
        """
        if self._takes_requests:
            return await self._hand_over(body, timing, is_field)
        if documents.may_be_document(self._model, body, self._content_type):
            answer = await self._answer_document(body, timing)
            if answer is not None:
                return answer
        if self._method != "predict":
            raise DecodeError(
                f"`{self._method}` takes a JSON document of `examples`", path="tfs-method"
            )
        inputs = self.inputs
        most = self._model.settings.limits.max_items
        reading = partial(read_body, inputs, body, self._content_type, max_items=most)
        work = inputs.work_bytes(body, self._content_type)
        if media_type(self._content_type) == json_lines.MEDIA_TYPE:
            work *= LINES_WEIGHT
        return await self.answer_items(reading, work, timing)

    async def answer_items(
        self, read: Callable[[], Payload], work_bytes: int, timing: Timing
    ) -> Response:
        """Predict the items that a call reads, which is so much work (`Model.offload`)."""
        model = self._model
        payload = await model.offload(read, work_bytes)
        if not payload.items:
            raise DecodeError("No items", expected="at least one")
        found = rows(await model.predict(payload.items, servable=self._servable, timing=timing))
        forms = [*self._forms]
        refusal: PredictError | NotAcceptable | None = None
        while forms:
            form = forms.pop(0)
            codec: OutputCodec = "json" if form == "json_lines" else form
            writing = written(
                model,
                found,
                partial(encode_rows, form=form, is_batch=payload.is_batch),
                work_bytes=partial(writing_bytes, codec=codec),
            )
            if not forms:
                del found  # it is freed where it is written
            try:
                return await writing
            except (PredictError, NotAcceptable) as exc:
                release(exc)
                refusal = refusal or exc
        assert refusal is not None
        if isinstance(refusal, NotAcceptable) or self._forms == (model.settings.output.codec,):
            raise refusal
        # The model's results have no such form: it is the caller who asked for it.
        raise NotAcceptable(str(refusal)) from refusal

    async def _answer_document(self, body: Buffer, timing: Timing) -> Response | None:
        """Answer a document of TensorFlow Serving's as its REST API does; None for another one."""
        model = self._model
        reading = partial(
            documents.read_document, model, body, version=self._version, method=self._method
        )
        query = await model.offload(reading, json_work_bytes(body))
        if query is None:
            return None
        answer = await written(
            model,
            rows(await model.predict(query.items, servable=query.servable, timing=timing)),
            query.render,
            work_bytes=written_bytes,
        )
        return documents.as_accepted(answer, self._told[1])

    async def _hand_over(self, body: Buffer, timing: Timing, is_field: bool) -> Response:
        invocation = Invocation(body, *self._told, self._headers, is_field)
        (row,) = rows(await self._model.predict([invocation], timing=timing))
        reply = row.value
        if not isinstance(reply, Reply):
            raise PredictError("Not a reply", expected="Reply", got=type(reply).__name__)
        text = reply.body if isinstance(reply.body, str) else ""
        return await self._model.offload(partial(render, reply), len(text) // TEXTS_PER_BYTE)


def render(reply: Reply) -> Response:
    """Write a reply as user code gave it.

    Raises:
        PredictError: its content type, or what it calls a header, is none, its text is not UTF-8,
            or its status does not end an exchange: below 200 a client waits for another one.
    """
    if not 200 <= reply.status <= 599:
        got = str(reply.status)
        raise PredictError("Not the status of an answer", expected="200 to 599", got=got)
    if re.search(NO_HEADER_VALUE, reply.content_type or ""):
        raise PredictError("Not a Content-Type", got=repr(reply.content_type))
    for name, value in reply.headers:
        if not re.fullmatch(HEADER_NAME, name) or re.search(NO_HEADER_VALUE, value):
            raise PredictError("Not a header", got=repr(f"{name}: {value}"[:200]))
    body = utf8(reply.body).encode() if isinstance(reply.body, str) else reply.body
    return Response(
        body,
        status=reply.status,
        media_type=reply.content_type,
        headers={name: value for name, value in reply.headers if name not in CONNECTIONS_OWN},
    )


def read_body(inputs: Inputs, body: Buffer, content_type: str | None, *, max_items: int) -> Payload:
    """Read a body as `Inputs.from_body` does, or JSON Lines, whose lines are items."""
    if media_type(content_type) != json_lines.MEDIA_TYPE:
        return inputs.from_body(body, content_type)
    items: list[Encoded] = []
    for index, value in enumerate(json_lines.decode(body, max_items=max_items)):
        items += inputs.from_json_item(value, path=f"lines[{index}]")
    inputs.check_count(len(items))
    return Payload(items, True)


def encode_rows(found: Sequence[Row], *, form: Form, is_batch: bool) -> Response:
    """Write results as `outputs.encode` does, or as JSON Lines, a line for each."""
    if form == "json_lines":
        lines = json_lines.encode(map(json_value, found))
        return Response(lines, media_type=json_lines.MEDIA_TYPE)
    shapes = flat_shapes(found) if form == "npy" else []
    return Response(
        encode(found, form, is_batch=is_batch),
        media_type=MEDIA_TYPES[form],
        headers={OUTPUTS: json.dumps(shapes)} if shapes else {},
    )


def choose_forms(accept: str | None, default: OutputCodec) -> Sequence[Form]:
    """Return the forms that the answer may have, the one to try first at first; JSON Lines only
    where they are asked for by name.

    Raises:
        NotAcceptable: no form fits.
    """
    if accept is None or json_lines.MEDIA_TYPE not in accept.lower():
        return negotiate(accept, default)
    forms: dict[Form, str] = {each: MEDIA_TYPES[each] for each in (default, *MEDIA_TYPES)}
    by_name: dict[Form, str] = {"json_lines": json_lines.MEDIA_TYPE}
    found = ranked(accept, forms, by_name)
    return found or negotiate(accept, default)


def asked_of(custom_attributes: str | None, model: Model) -> tuple[str | None, str]:
    """Return the version and the method that
    `tfs-model-name=m,tfs-model-version=1,tfs-method=predict` asks for; attributes of other names
    are ignored.

    Raises:
        ModelNotFound: it names another model.
        InvalidRequest: another method than the model has, which is `predict`, and with TensorFlow
            `classify` and `regress`.
    """
    if not custom_attributes:
        return None, "predict"
    model_name = model.name
    asked = tfs_attributes(custom_attributes)
    name, method = asked.get("tfs-model-name", model_name), asked.get("tfs-method", "predict")
    if name != model_name:
        raise ModelNotFound(
            "No such model",
            expected=repr(model_name),
            got=shortened(name),
            path="tfs-model-name",
            remedy=did_you_mean(name, [model_name]) or None,
        )
    known = rest.VERBS if model.metadata.platform == documents.PLATFORM else ("predict",)
    if method not in known:
        raise InvalidRequest(
            "No such method",
            expected=" or ".join(map(repr, known)),
            got=shortened(method),
            path="tfs-method",
        )
    return asked.get("tfs-model-version"), method
