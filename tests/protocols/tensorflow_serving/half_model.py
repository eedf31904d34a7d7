"""Upstream's model of its documentation, and requests to it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import httpx
from PIL import Image
from skimage import data as photographs

from rayserve_app.app import App, create_app
from rayserve_app.types import Metadata, TensorSpec
from tests.protocols import call, create_model

CLASSIFY = "/v1/models/m:classify"
REGRESS = "/v1/models/m:regress"


def create(function: Any, specs: Sequence[TensorSpec] = (), **options: Any) -> App:
    """Return the app of a model that speaks this protocol alone."""
    outputs = options.pop("outputs", ())
    metadata = Metadata("test", inputs=tuple(specs), outputs=outputs)
    options = {"protocols": ["tensorflow_serving"]} | options
    return create_app(create_model(function, metadata=metadata, **options))


def noting(seen: list[Any]) -> Any:
    """Return a model that answers 1.0 and notes its items."""

    def note(items: Sequence[Any]) -> list[float]:
        seen.extend(items)
        return [1.0] * len(items)

    return note


async def post(app: App, path: str, body: Any = b"", **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await call(app, "POST", path, content=content, headers=named)


async def refused(app: App, path: str, body: Any = b"", status: int = 400) -> str:
    """Return the sentence of an error."""
    response = await post(app, path, body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.content.startswith(b'{ "error": "')
    answer = response.json()
    assert set(answer) == {"error"}
    return str(answer["error"])


BOTH = (TensorSpec("numbers", "float32", (-1, 2)), TensorSpec("scale", "int32", (-1,)))


def encoded(pixels: Any, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


PIXELS = photographs.astronaut()[::32, ::32]
PNG = encoded(PIXELS)
STANDARD = base64.b64encode(PNG).decode()
