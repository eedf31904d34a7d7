"""Requests of pages from elsewhere (the Fetch standard, "CORS protocol"): one setting of a model or
a gateway, for all that it answers, errors included."""

from __future__ import annotations

from functools import partial
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from rayserve_app.settings.protocols import CorsSettings
from rayserve_app.web.messages import FORWARDED
from rayserve_app.web.scope import CLIENT_HEADERS

ANY: Final = ("*",)


def with_cors(answer: ASGIApp, settings: CorsSettings | None) -> ASGIApp:
    """Return an app that answers requests as the setting says; the same app where there is none.

    What a gateway has forwarded is answered without: the gateway's own setting holds for it.
    """
    if settings is None:
        return answer
    cors = CORSMiddleware(
        answer,
        allow_origins=settings.origins,
        allow_methods=ANY,
        allow_headers=ANY,
        expose_headers=ANY,
    )

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(raw=list(scope.get(CLIENT_HEADERS) or scope["headers"]))
        if FORWARDED in headers:
            await answer(scope, receive, send)
        elif _is_preflight(scope["method"], headers):
            await cors.preflight_response(headers)(scope, receive, send)
        else:
            await answer(scope, receive, partial(cors.send, send=send, request_headers=headers))

    return run


def _is_preflight(method: str, headers: Headers) -> bool:
    return (
        method == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers
    )
