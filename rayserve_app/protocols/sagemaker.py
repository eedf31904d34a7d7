"""The SageMaker hosting container's contract: `/ping` and `/invocations`.

Source: Amazon SageMaker developer guide, "Custom inference code with hosting services": `/ping`
answers 200 when the container is ready, `/invocations` takes any body by its `Content-Type` and
answers as `Accept` asks. The body of errors is free; `{"error": ...}` is what the
TensorFlow container sends. A model that takes whole requests gets body and headers as they came,
and its answer is sent as it is.
"""

from __future__ import annotations

import re
from functools import partial
from typing import ClassVar, Final

from rayserve_app.codecs import json
from rayserve_app.errors import DecodeError, NotAcceptable, PredictError, ServingError
from rayserve_app.http import Request, Response, retry_headers, status_of
from rayserve_app.outputs import MEDIA_TYPES, encode, negotiate, text_bytes
from rayserve_app.protocols.protocol import Protocol, Route, rows
from rayserve_app.types import FailedInvocation, Invocation, Reply

NO_HEADER_VALUE: Final = r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]"


class SageMaker(Protocol):
    """The container contract for one model."""

    name: ClassVar[str] = "sagemaker"

    ROUTES: ClassVar = (
        Route("GET", "/ping", "ping"),
        Route("POST", "/invocations", "invocations"),
    )

    async def ping(self, _: Request) -> Response:
        self.model.check_ready()
        return Response()

    async def invocations(self, request: Request) -> Response:
        model = self.model
        model.check_admission()
        if model.settings.input.type == "request":
            return await self._invoke(request)
        codec = negotiate(request.header("accept"), model.settings.output.codec)
        body, content_type = await request.body(), request.header("content-type")
        payload = await model.offload(
            partial(model.inputs.from_body, body, content_type),
            model.inputs.parse_bytes(body, content_type),
        )
        if not payload.items:
            raise DecodeError("No items", expected="at least one")
        found = rows(await model.predict(payload.items, timing=request.timing))
        try:
            answer = await model.offload(
                partial(encode, found, codec, is_batch=payload.is_batch), text_bytes(found, codec)
            )
        except PredictError as exc:
            if codec == model.settings.output.codec:
                raise
            # The model's results have no such form: it is the caller who asked for it.
            raise NotAcceptable(str(exc)) from exc
        return Response(answer, media_type=MEDIA_TYPES[codec])

    def render_error(self, error: ServingError) -> Response:
        if isinstance(error, FailedInvocation):
            return render(error.reply)
        return Response(
            json.encode({"error": str(error)}),
            status=status_of(error),
            media_type="application/json",
            headers=retry_headers(error),
        )

    async def _invoke(self, request: Request) -> Response:
        invocation = Invocation(
            await request.body(),
            content_type=request.header("content-type"),
            accept=request.header("accept"),
            custom_attributes=request.header("x-amzn-sagemaker-custom-attributes"),
        )
        (row,) = rows(await self.model.predict([invocation], timing=request.timing))
        reply = row.value
        if not isinstance(reply, Reply):
            raise PredictError("Not a reply", expected="Reply", got=type(reply).__name__)
        return render(reply)


def render(reply: Reply) -> Response:
    """Write a reply as user code gave it.

    Raises:
        PredictError: its content type cannot stand in a header.
    """
    if re.search(NO_HEADER_VALUE, reply.content_type or ""):
        raise PredictError("Not a Content-Type", got=repr(reply.content_type))
    body = reply.body.encode() if isinstance(reply.body, str) else reply.body
    return Response(body, status=reply.status, media_type=reply.content_type)
