"""One body in by its content type, one body out as `Accept` asks: what SageMaker's containers, its
runtime API and Multi Model Server have in common.

A model that takes whole requests gets body and headers as they came, and its answer is sent as it
is. Source of the custom attributes: aws/sagemaker-tensorflow-serving-container da19256,
tfs_utils.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Literal, TypeAlias

from rayserve_app.codecs import json_lines
from rayserve_app.encoded_inputs import Encoded
from rayserve_app.errors import (
    DecodeError,
    InvalidRequest,
    ModelNotFound,
    NotAcceptable,
    PredictError,
)
from rayserve_app.http import Response
from rayserve_app.inputs import Inputs, Payload, media_type
from rayserve_app.model import Model
from rayserve_app.outputs import (
    MEDIA_TYPES,
    OUTPUTS,
    encode,
    flat_shapes,
    json_value,
    negotiate,
)
from rayserve_app.plain_values import utf8
from rayserve_app.protocols.protocol import rows, shortened
from rayserve_app.protocols.writing import writing_bytes, written
from rayserve_app.settings import OutputCodec
from rayserve_app.timing import Timing
from rayserve_app.types import Buffer, Invocation, Reply, Row

Form: TypeAlias = OutputCodec | Literal["json_lines"]

NO_HEADER_VALUE: Final = r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]"

LINES_WEIGHT: Final = 128
"""Each line is a document of its own."""

TEXTS_PER_BYTE: Final = 16
"""So much text is as quickly encoded as a byte of JSON is read."""

ATTRIBUTE_PREFIX: Final = "tfs-"


class Invoker:
    """One request to a model, all of it but its body."""

    def __init__(
        self,
        model: Model,
        *,
        content_type: str | None,
        accept: str | None,
        custom_attributes: str | None = None,
    ) -> None:
        """Choose what will answer, and in which form.

        Raises:
            NotAcceptable, VersionNotFound, ModelNotFound, InvalidRequest: nothing here answers
                what the headers ask for.
        """
        self._model = model
        self._headers = (content_type, accept, custom_attributes)
        self._content_type = content_type
        self._takes_requests = model.settings.input.type == "request"
        self._servable = model.versions.default
        self._form: Form = "json"
        if not self._takes_requests:
            self._form = choose_form(accept, model.settings.output.codec)
            self._servable = model.select(version_of(custom_attributes, model.name))

    @property
    def inputs(self) -> Inputs:
        """What reads the items."""
        return self._servable.inputs

    async def answer(self, body: Buffer, timing: Timing) -> Response:
        """Predict what a body holds.

        Raises:
            ServingError: the body does not fit, or the model fails.
        """
        if self._takes_requests:
            return await self._hand_over(body, timing)
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
        form = self._form
        codec: OutputCodec = "json" if form == "json_lines" else form
        found = rows(await model.predict(payload.items, servable=self._servable, timing=timing))
        writing = written(
            model,
            found,
            partial(encode_rows, form=form, is_batch=payload.is_batch),
            work_bytes=partial(writing_bytes, codec=codec),
        )
        del found
        try:
            return await writing
        except PredictError as exc:
            if form == model.settings.output.codec:
                raise
            # The model's results have no such form: it is the caller who asked for it.
            raise NotAcceptable(str(exc)) from exc

    async def _hand_over(self, body: Buffer, timing: Timing) -> Response:
        (row,) = rows(await self._model.predict([Invocation(body, *self._headers)], timing=timing))
        reply = row.value
        if not isinstance(reply, Reply):
            raise PredictError("Not a reply", expected="Reply", got=type(reply).__name__)
        text = reply.body if isinstance(reply.body, str) else ""
        return await self._model.offload(partial(render, reply), len(text) // TEXTS_PER_BYTE)


def render(reply: Reply) -> Response:
    """Write a reply as user code gave it.

    Raises:
        PredictError: its content type cannot stand in a header, or its text is not UTF-8.
    """
    if re.search(NO_HEADER_VALUE, reply.content_type or ""):
        raise PredictError("Not a Content-Type", got=repr(reply.content_type))
    body = utf8(reply.body).encode() if isinstance(reply.body, str) else reply.body
    return Response(body, status=reply.status, media_type=reply.content_type)


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


def choose_form(accept: str | None, default: OutputCodec) -> Form:
    """Choose the form of the answer; JSON Lines only where they are asked for first.

    Raises:
        NotAcceptable: no form fits.
    """
    if media_type((accept or "").partition(",")[0]) == json_lines.MEDIA_TYPE:
        return "json_lines"
    return negotiate(accept, default)


def version_of(custom_attributes: str | None, model_name: str) -> str | None:
    """Return the version that `tfs-model-name=m,tfs-model-version=1,tfs-method=predict` asks for;
    attributes of other names are ignored.

    Raises:
        ModelNotFound: it names another model.
        InvalidRequest: another method than `predict`.
    """
    if not custom_attributes:
        return None
    pairs = (each.strip().partition("=") for each in custom_attributes.split(","))
    asked = {name: value for name, _, value in pairs if name.startswith(ATTRIBUTE_PREFIX) and value}
    name, method = asked.get("tfs-model-name", model_name), asked.get("tfs-method", "predict")
    if name != model_name:
        raise ModelNotFound(
            "No such model", expected=repr(model_name), got=shortened(name), path="tfs-model-name"
        )
    if method != "predict":
        # `classify` and `regress` take Examples, which only TensorFlow Serving's API has.
        raise InvalidRequest(
            "No such method", expected="'predict'", got=shortened(method), path="tfs-method"
        )
    return asked.get("tfs-model-version")
