"""What the tests of protocols share: a model around a function, called through its ASGI app."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import httpx

from rayserve_app.app import App
from rayserve_app.bench.loop_probe import FunctionBackend as FunctionBackend
from rayserve_app.inference.model import Model
from rayserve_app.settings.model import ModelSettings
from rayserve_app.types import Metadata


def create_model(
    function: Callable[[Sequence[Any]], Any],
    *,
    metadata: Metadata | None = None,
    is_warm: bool = True,
    **settings: Any,
) -> Model:
    """Return a loaded model called `m`."""
    backend = FunctionBackend(function, metadata)
    model = Model(ModelSettings.model_validate(settings), backend, name="m")
    model.load()
    if is_warm:
        model.warm_up()
    return model


async def call(app: App, method: str, path: str, **options: Any) -> httpx.Response:
    """Send one request below the prefix `/m`, with no other headers than those given."""
    request = httpx.Request(method, f"http://server/m{path}", **options)
    transport = httpx.ASGITransport(app, root_path="/m")
    response = await transport.handle_async_request(request)
    await response.aread()
    return response
