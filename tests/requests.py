"""Requests as an ASGI server brings them, piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from rayserve_app.settings.model import LimitSettings
from rayserve_app.web.messages import BodyBudget, Request

Receive = Callable[[], Awaitable[Any]]


async def never() -> Any:
    await asyncio.Event().wait()


def chunks(*bodies: bytes, pause_s: float = 0.0, then: str = "ends") -> Receive:
    """Return an ASGI `receive` that brings these pieces of one body, which then `ends`, or its
    client `stalls` or `leaves`."""
    messages = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    if then == "ends":
        messages[-1]["more_body"] = False
    elif then == "leaves":
        messages.append({"type": "http.disconnect"})
    remaining = iter(messages)

    async def receive() -> Any:
        await asyncio.sleep(pause_s)
        for message in remaining:
            return message
        return await never()

    return receive


def create_request(
    receive: Receive,
    *headers: tuple[bytes, bytes],
    budget: BodyBudget | None = None,
    **limits: Any,
) -> Request:
    scope = {"type": "http", "method": "POST", "headers": headers}
    return Request(scope, receive, LimitSettings.model_validate(limits), budget)
