"""The SageMaker hosting container's contract: `/ping`, `/invocations`, and `/models...` of
multi-model endpoints.

Source: Amazon SageMaker developer guide, "Custom inference code with hosting services": `/ping`
answers 200 when the container is ready, `/invocations` takes any body by its `Content-Type` and
answers as `Accept` asks; and "Contract for custom containers to serve multiple models". The body
of errors is free; `{"error": ...}` is what the TensorFlow container sends.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Final

from rayserve_app.codecs import json
from rayserve_app.codecs.tensorflow.container_headers import HEADER as ATTRIBUTES
from rayserve_app.errors import (
    InvalidRequest,
    PredictError,
    ServingError,
    UnsupportedContentType,
    release,
)
from rayserve_app.inference.model import Model
from rayserve_app.protocols.protocol import Declined, Means, Protocol, Route, inference, is_form
from rayserve_app.protocols.sagemaker.invocation import Invoker, render
from rayserve_app.protocols.sagemaker.names import (
    AlreadyLoaded,
    KeepsLoaded,
    ModelNames,
    TooManyNames,
    check_target,
    read_registration,
)
from rayserve_app.protocols.sagemaker.settings import SageMakerSettings
from rayserve_app.types import FailedInvocation
from rayserve_app.web.messages import Request, Response, retry_headers, status_of

TARGET_MODEL: Final = "x-amzn-sagemaker-target-model"
"""What the client of a multi-model endpoint calls the model."""

PAGE_NAMES: Final = 100
"""How many models one page of `GET /models` lists."""


class SageMaker(Protocol):
    """The container contract for one model, which is loaded from the start under its own name.

    A platform that manages a multi-model endpoint loads it a second time, under an opaque name of
    its own and from the URL that the YAML declares: that makes another name for the same model.
    Names live in the replica that was told, as they do in one container of an endpoint.
    """

    name: ClassVar[str] = "sagemaker"

    settings_type = SageMakerSettings

    ROUTES: ClassVar = (
        Route("GET", "/ping", "ping"),
        Route("POST", "/invocations", "invocations"),
        Route("GET", "/models", "list_models", Means.ALL),
        Route("POST", "/models", "load_model", Means.WHO_TAKES_IT),
        Route("GET", "/models/{model}", "describe_model"),
        Route("DELETE", "/models/{model}", "unload_model"),
        Route("POST", "/models/{model}/invoke", "invocations"),
    )

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._names = ModelNames(model)

    def check_name(self, name: str) -> None:
        self._names.check(name)

    async def ping(self, _: Request) -> Response:
        self.model.check_ready()
        return Response()

    @inference
    async def invocations(self, request: Request) -> Response:
        self.model.check_admission()
        if "model" not in request.path_params:  # where it is the platform's own name
            check_target(self.model, request.header(TARGET_MODEL))
        invoker = Invoker(
            self.model,
            content_type=request.header("content-type"),
            accept=request.list_header("accept"),
            custom_attributes=request.header(ATTRIBUTES),
            headers=request.headers,
        )
        body = await request.body()
        try:
            return await invoker.answer(body, request.timing)
        except UnsupportedContentType as exc:
            if is_form(body, request.header("content-type")):  # Multi Model Server takes those
                raise Declined(exc, may_be_mine=True) from exc
            raise

    async def list_models(self, request: Request) -> Response:
        token = dict(request.query()).get("next_page_token", "0")
        # A token is the position at which the page begins; names are never reordered.
        if not (token.isascii() and token.isdecimal() and len(token) < 10):
            raise InvalidRequest("Not a page token", got=repr(token), path="next_page_token")
        start = int(token)
        names = self._names.known
        listed = {"models": [self._describe(each) for each in names[start : start + PAGE_NAMES]]}
        if start + PAGE_NAMES < len(names):
            return _answer(listed | {"nextPageToken": str(start + PAGE_NAMES)})
        return _answer(listed)

    async def load_model(self, request: Request) -> Response:
        body = await request.body()
        name, url = await self.model.offload(partial(read_registration, body), len(body))
        self._names.add(name, url)
        return _answer(self._describe(name))

    async def describe_model(self, request: Request) -> Response:
        return _answer(self._describe(request.path_params["model"]))

    async def unload_model(self, request: Request) -> Response:
        self._names.remove(request.path_params["model"])
        return _answer({})

    @classmethod
    def render_error(cls, error: ServingError) -> Response:
        return render_error(error)

    def _describe(self, name: str) -> dict[str, str]:
        return {"modelName": name, "modelUrl": self._names.url}


def render_error(error: ServingError) -> Response:
    """Return what a container answers: what user code says itself, else `{"error"}`."""
    if isinstance(error, FailedInvocation):
        try:
            return render(error.reply)
        except PredictError as exc:
            release(exc)
            error = exc
    return Response(
        json.encode({"error": str(error)}),
        status=_status_of(error),
        media_type="application/json",
        headers=retry_headers(error),
    )


def _status_of(error: ServingError) -> int:
    if isinstance(error, AlreadyLoaded | KeepsLoaded):
        return 409
    # The contract's status for a container whose memory is full.
    return 507 if isinstance(error, TooManyNames) else status_of(error)


def _answer(value: object) -> Response:
    return Response(json.encode(value), media_type="application/json")
