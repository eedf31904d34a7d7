"""SageMaker's runtime API and what its SDK needs of the control plane, as boto3 speaks them.

Source: botocore 1.43, sagemaker-runtime 2017-05-13 (AWS REST-JSON). The endpoint is the model, and
behind it stands a container (container.py): what that answers as an error becomes a ModelError,
whatever it is. The request's signature is not looked at.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Final

from rayserve_app.codecs import event_stream, json
from rayserve_app.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    ServingError,
    Unavailable,
    release,
)
from rayserve_app.inference.model import Model
from rayserve_app.protocols.protocol import Declined, Means, Protocol, Route, inference, those_known
from rayserve_app.protocols.sagemaker import container, control
from rayserve_app.protocols.sagemaker.asynchronous import (
    DEFAULT_TIMEOUT_S,
    MAX_INLINE_BYTES,
    TIMEOUT_S,
    TTL_S,
    AsyncInvocations,
    AsyncRequest,
    NotStarted,
    output_names,
)
from rayserve_app.protocols.sagemaker.control import VARIANT
from rayserve_app.protocols.sagemaker.invocation import Invoker
from rayserve_app.protocols.sagemaker.names import check_target
from rayserve_app.protocols.sagemaker.settings import SageMakerSettings
from rayserve_app.types import Buffer
from rayserve_app.web.messages import Request, Response, retry_headers

PREFIX: Final = "x-amzn-sagemaker-"

# The service model's patterns; without `\n`, as `$` would let pass.
ASCII: Final = r"[ -~\t]{0,1024}"
VISIBLE: Final = r"[!-~][ -~]{0,%d}"
VARIANT_NAME: Final = r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"

LONGEST_MESSAGE: Final = 2048
"""Characters of a message, by the service model."""


class SageMakerRuntime(Protocol):
    """The runtime API for one model, which is its own endpoint."""

    name: ClassVar[str] = "sagemaker_runtime"

    FRAGMENT = "openapi_runtime.yaml"

    # AWS's JSON protocol names its operation there.
    MARK = b"x-amz-target"

    # An endpoint's configuration has the endpoint's name.
    MODEL_KEYS = ("EndpointName", "EndpointConfigName")

    ROUTES: ClassVar = (
        Route("POST", "/endpoints/{model}/invocations", "invoke"),
        Route("POST", "/endpoints/{model}/invocations-response-stream", "invoke_with_stream"),
        Route("POST", "/endpoints/{model}/async-invocations", "invoke_async"),
        Route("POST", "/", "call_control_plane", Means.IN_BODY_OR_ANY),
    )

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._created_at = time.time()
        output = model.settings.of_protocol("sagemaker", SageMakerSettings).async_output
        self._async = AsyncInvocations(model, output, as_failure) if output else None

    @classmethod
    def unknown_model(cls, name: str, known: Sequence[str]) -> ServingError:
        return ModelNotFound(f"Endpoint {name[:200]} not found", remedy=those_known(name, known))

    @inference
    async def invoke(self, request: Request) -> Response:
        """InvokeEndpoint."""
        return await self._invoke(request, request.list_header("accept"))

    @inference
    async def invoke_with_stream(self, request: Request) -> Response:
        """InvokeEndpointWithResponseStream. The answer is whole before its first event, so that
        what goes wrong is an error of HTTP, and the stream has no exceptions."""
        answer = await self._invoke(request, _field(request, "accept"))
        if answer.status >= 400:
            return answer
        # A checksum of sixteen bytes takes as long as reading one of JSON.
        work = sum(map(len, answer.buffers)) // 16
        encoding = partial(event_stream.encode_events, "PayloadPart", answer.buffers)
        headers = dict(answer.headers)
        if (content_type := headers.pop("content-type", None)) is not None:
            headers[f"{PREFIX}content-type"] = content_type
        return Response(
            await self.model.offload(encoding, work),
            media_type=event_stream.MEDIA_TYPE,
            headers=headers,
        )

    async def invoke_async(self, request: Request) -> Response:
        """InvokeEndpointAsync."""
        if self._async is None:
            raise InvalidRequest(
                "This endpoint takes no asynchronous invocations",
                remedy="The model's `protocol_settings.sagemaker.async_output` is not set.",
            )
        inference_id = _field(request, "inference-id", VISIBLE % 63) or str(uuid.uuid4())
        output, failure = output_names(
            _field(request, "s3outputpathextension"), _field(request, "filename")
        )
        location, body = _field(request, "inputlocation"), await request.body()
        accepted = AsyncRequest(
            inference_id,
            _inline(body) if location is None else self._async.find_input(location),
            output,
            failure,
            _field(request, "content-type"),
            _field(request, "accept"),
            _field(request, "custom-attributes"),
            request.headers(),
            time.monotonic() + _seconds(request, "requestttlseconds", TTL_S, TTL_S[-1]),
            _seconds(request, "invocationtimeoutseconds", TIMEOUT_S, DEFAULT_TIMEOUT_S),
        )
        # "Body and InputLocation are mutually exclusive. Provide exactly one of them."
        if location is not None and len(body) > 0:
            raise InvalidRequest("Both a Body and an InputLocation")
        output_location, failure_location = self._async.submit(accepted)
        return Response(
            json.encode({"InferenceId": inference_id}),
            status=202,
            media_type="application/json",
            headers={
                f"{PREFIX}outputlocation": output_location,
                f"{PREFIX}failurelocation": failure_location,
                "x-amzn-requestid": str(uuid.uuid4()),
            },
        )

    async def call_control_plane(self, request: Request) -> Response:
        """The control plane's operations."""
        target = request.header("x-amz-target")
        if target is None:
            raise Declined(InvalidRequest("No X-Amz-Target says which operation is asked for"))
        body = await request.body()
        try:
            call = await self.model.offload(partial(control.parse, target, body), len(body))
            answer = control.answer(call, self.model, created_at=self._created_at)
            response = control.render(answer)
        except ServingError as exc:
            release(exc)
            response = control.render_error(exc)
        response.headers["x-amzn-requestid"] = str(uuid.uuid4())
        return response

    @classmethod
    def render_error(cls, error: ServingError) -> Response:
        return render_error(error)

    async def _invoke(self, request: Request, accept: str | None) -> Response:
        self.model.check_admission()
        attributes = _field(request, "custom-attributes")
        # Clients keep the variants of the endpoint that they were written for: each is the model.
        variant = _field(request, "target-variant", VARIANT_NAME) or VARIANT
        for field in ("target-model", "inference-component"):
            check_target(self.model, _field(request, field))
        body = await request.body()
        try:
            invoker = Invoker(
                self.model,
                content_type=request.header("content-type"),
                accept=accept,
                custom_attributes=attributes,
                headers=request.headers,
            )
            answer = await invoker.answer(body, request.timing)
        except Unavailable:
            raise
        except ServingError as exc:
            release(exc)
            answer = container.render_error(exc)
        if not 200 <= answer.status < 300:
            return model_error(answer)
        answer.headers["x-amzn-invoked-production-variant"] = variant
        answer.headers["x-amzn-requestid"] = str(uuid.uuid4())
        if attributes is not None and self.model.settings.input.type != "request":
            # "to return an ID received in the CustomAttributes header of a request" is what the
            # field is for; where user code answers, it is for that to say.
            answer.headers[f"{PREFIX}custom-attributes"] = attributes
        return answer


def render_error(error: ServingError) -> Response:
    """Write what is refused before the model sees it: a fault of the request is a ValidationError,
    too large and too slow bodies too; what may succeed later is what botocore repeats."""
    if isinstance(error, ModelNotReady):
        kind, status = "ModelNotReadyException", 429
    elif isinstance(error, Unavailable):
        kind, status = "ServiceUnavailable", 503
    elif isinstance(error, InvalidRequest | ModelNotFound):
        kind, status = "ValidationError", 400
    elif isinstance(error, DeadlineExceeded):
        return model_error(container.render_error(error))  # as the model says so itself
    else:
        kind, status = "InternalFailure", 500
    return _error(kind, status, {"Message": str(error)[:LONGEST_MESSAGE]}, retry_headers(error))


def model_error(answer: Response) -> Response:
    """Write what the container answered as an error: always 424, by which botocore does not repeat
    the request."""
    text = _text(answer.buffers)
    side = "client" if answer.status < 500 else "server"
    message = f'Received {side} error ({answer.status}) from model with message "{text}".'
    fields: dict[str, str | int] = {
        "Message": message[:LONGEST_MESSAGE],
        "OriginalStatusCode": answer.status,
        "OriginalMessage": text,
        # There is no CloudWatch; the key is there for clients that read it.
        "LogStreamArn": "",
    }
    return _error("ModelError", 424, fields, {})


def as_failure(outcome: Response | ServingError) -> Response:
    """Write what is left of an asynchronous invocation that failed: as it would be answered."""
    if isinstance(outcome, Response):
        return model_error(outcome)
    if isinstance(outcome, Unavailable | NotStarted):
        return render_error(outcome)
    return model_error(container.render_error(outcome))


def _inline(body: Buffer) -> bytes:
    if not 0 < len(body) <= MAX_INLINE_BYTES:
        raise InvalidRequest(
            "Neither an InputLocation nor a Body that may come with the request",
            expected=f"1 to {MAX_INLINE_BYTES} bytes",
            got=str(len(body)),
        )
    return bytes(body)


def _error(
    kind: str, status: int, fields: dict[str, str | int], headers: dict[str, str]
) -> Response:
    ids = {"x-amzn-errortype": kind, "x-amzn-requestid": str(uuid.uuid4())}
    return Response(
        json.encode(fields),
        status=status,
        media_type="application/json",
        headers={**ids, **headers},
    )


def _text(buffers: Sequence[Buffer]) -> str:
    start = b"".join(bytes(memoryview(buffer)[:LONGEST_MESSAGE]) for buffer in buffers[:16])
    return start.decode("utf-8", "replace")[:LONGEST_MESSAGE]


def _field(request: Request, name: str, pattern: str = ASCII) -> str | None:
    """Return the value of `X-Amzn-SageMaker-<name>`.

    Raises:
        InvalidRequest: it is not what the service model says.
    """
    value = request.header(PREFIX + name)
    if value is not None and not re.fullmatch(pattern, value):
        raise InvalidRequest(
            "Not a value that the header takes",
            expected=f"a match of {pattern}",
            got=repr(value[:200]),
            path=f"X-Amzn-SageMaker-{name}",
        )
    return value


def _seconds(request: Request, name: str, known: range, default: int) -> int:
    text = _field(request, name)
    if text is None:
        return default
    if not (text.isdecimal() and len(text) < 10 and int(text) in known):
        raise InvalidRequest(
            "Not a number of seconds",
            expected=f"{known[0]} to {known[-1]}",
            got=repr(text[:200]),
            path=f"X-Amzn-SageMaker-{name}",
        )
    return int(text)
