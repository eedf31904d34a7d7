"""The least that a Serve replica can hold: what its memory is, Serve takes."""

from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment
class Bare:
    async def __call__(self, request: Request) -> Response:
        return Response()


app = Bare.bind()  # type: ignore[attr-defined]
