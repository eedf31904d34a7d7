"""A model behind Clipper's protocol, and what is asked of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from rayserve_app.app import App, create_app
from tests.protocols import call, create_model


def create_echo(kind: str = "string", **options: Any) -> App:
    def echo(items: Sequence[Any]) -> list[Any]:
        return [item.tolist() if isinstance(item, np.ndarray) else item for item in items]

    return create_app(create_model(echo, input={"type": kind}, **options))


async def predict(app: App, body: Any, path: str = "/predict") -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await call(app, "POST", path, content=content)
