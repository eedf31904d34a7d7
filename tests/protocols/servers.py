"""A model behind a real uvicorn, for clients that want a URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rayserve_app.app import create_app
from rayserve_app.bench.served import mount
from rayserve_app.bench.served import serving as serving_app
from rayserve_app.inference.model import Model


@contextmanager
def serving(model: Model) -> Iterator[str]:
    """Serve a model on a free port; yield the URL where its paths begin."""
    try:
        with serving_app(mount(create_app(model), f"/{model.name}")) as port:
            yield f"http://127.0.0.1:{port}/{model.name}"
    finally:
        model.close()
