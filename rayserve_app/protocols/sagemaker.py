"""The SageMaker hosting container's contract: `/ping` and `/invocations`.

Source: Amazon SageMaker developer guide, "Custom inference code with hosting services": `/ping`
answers 200 when the container is ready, `/invocations` takes any body by its `Content-Type` and
answers as `Accept` asks. The body of errors is free; `{"error": ...}` is what the
TensorFlow container sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rayserve_app.batching import Result
from rayserve_app.codecs import json
from rayserve_app.errors import DecodeError, ServingError
from rayserve_app.http import Request, Response, retry_headers, status_of
from rayserve_app.outputs import MEDIA_TYPES, encode, negotiate
from rayserve_app.protocols.protocol import Protocol, Route
from rayserve_app.types import Row


class SageMaker(Protocol):
    """The container contract for one model."""

    name: ClassVar[str] = "sagemaker"

    def routes(self) -> Sequence[Route]:
        return [
            Route("GET", "/ping", self.ping),
            Route("POST", "/invocations", self.invocations),
        ]

    async def ping(self, _: Request) -> Response:
        self.model.check_ready()
        return Response()

    async def invocations(self, request: Request) -> Response:
        codec = negotiate(request.header("accept"), self.model.settings.output.codec)
        body = await request.body()
        payload = self.model.inputs.from_body(body, request.header("content-type"))
        if not payload.items:
            raise DecodeError("No items", expected="at least one")
        results = await self.model.predict(payload.items, timing=request.timing)
        return Response(
            encode(rows(results), codec, is_batch=payload.is_batch), media_type=MEDIA_TYPES[codec]
        )

    def render_error(self, error: ServingError) -> Response:
        return Response(
            json.encode({"error": str(error)}),
            status=status_of(error),
            media_type="application/json",
            headers=retry_headers(error),
        )


def rows(results: Sequence[Result]) -> list[Row]:
    """Return the rows of results without an error.

    Raises:
        ServingError: the first error; of several items its path says which.
    """
    found: list[Row] = []
    for index, result in enumerate(results):
        if isinstance(result, ServingError):
            raise result.at(f"[{index}]") if len(results) > 1 else result
        found.append(result)
    return found
