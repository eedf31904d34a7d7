"""The least that a Serve user writes by hand: an ingress that opens an image and tells its size."""

from io import BytesIO

from PIL import Image
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse


@serve.deployment(max_ongoing_requests=1000)
class Minimal:
    async def __call__(self, request: Request) -> JSONResponse:
        return JSONResponse(Image.open(BytesIO(await request.body())).size)


app = Minimal.bind()  # type: ignore[attr-defined]
