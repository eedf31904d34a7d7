"""The least that a Serve user writes by hand to answer 54.8 MB: what Serve's and HAProxy's way for
so many bytes takes by itself."""

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from rayserve_app.bench.models import HEADS_BYTES

BODY = b"\1" * HEADS_BYTES


@serve.deployment(max_ongoing_requests=1000)
class Large:
    async def __call__(self, request: Request) -> Response:
        await request.body()
        return Response(BODY)


app = Large.bind()  # type: ignore[attr-defined]
