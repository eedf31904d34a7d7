"""The least that a Serve user writes by hand: an ingress that opens an image and says its size, and
one that answers 54.8 MB, which is what Serve's and HAProxy's way for so many bytes takes."""

from io import BytesIO

from PIL import Image
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rayserve_app.bench.models import HEADS_BYTES

BODY = b"\1" * HEADS_BYTES


@serve.deployment(max_ongoing_requests=1000)
class Minimal:
    async def __call__(self, request: Request) -> JSONResponse:
        return JSONResponse(Image.open(BytesIO(await request.body())).size)


@serve.deployment(max_ongoing_requests=1000)
class Large:
    async def __call__(self, request: Request) -> Response:
        await request.body()
        return Response(BODY)


minimal = Minimal.bind()  # type: ignore[attr-defined]
large = Large.bind()  # type: ignore[attr-defined]
