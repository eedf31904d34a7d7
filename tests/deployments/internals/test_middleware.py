"""What stands before Serve in a replica: headers that Serve does not see."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.internals.middleware import Ingress
from rayserve_app.settings.model import LimitSettings
from rayserve_app.web.messages import Request as OwnRequest


def headers_seen(scope: Any) -> dict[bytes, bytes]:
    return dict(scope["headers"])


async def through(scope: dict[str, Any]) -> dict[str, Any]:
    """Return the scope that Serve gets to see."""
    seen: list[Any] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    async def nothing(*_: Any) -> None:
        return

    await Ingress(serve)(scope, nothing, nothing)  # type: ignore[arg-type]
    return dict(seen[0])


def http_scope(*headers: tuple[bytes, bytes], method: str = "POST") -> dict[str, Any]:
    return {"type": "http", "method": method, "headers": list(headers)}


@pytest.mark.parametrize("value", [b"?1", b"?0", b"x"])
async def test_clients_do_not_steer_serve(value: bytes) -> None:
    scope = await through(
        http_scope(
            (b"x-request-timeout-seconds", b"0"),
            (b"x-request-disconnect-disabled", value),
            (b"serve_multiplexed_model_id", b"m"),
        )
    )
    assert headers_seen(scope) == {b"x-request-disconnect-disabled": b"?1"}


async def test_serve_sees_what_names_and_traces_a_request() -> None:
    known = [(b"x-request-id", b"7"), (b"traceparent", b"00-1-2-01"), (b"tracestate", b"a=b")]
    scope = await through(http_scope(*known))
    assert headers_seen(scope).items() >= dict(known).items()


async def test_the_app_sees_all_headers() -> None:
    scope = await through(http_scope((b"accept", b"text/csv"), (b"x-request-id", b"7")))
    request = OwnRequest(scope, lambda: None, LimitSettings())  # type: ignore[arg-type]
    assert (request.header("accept"), request.header("x-request-id")) == ("text/csv", "7")
    assert request.header("x-request-disconnect-disabled") is None


async def test_what_is_not_http_passes_as_it_is() -> None:
    scope = {"type": "lifespan"}
    assert await through(scope) == {"type": "lifespan"}
