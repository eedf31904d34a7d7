"""Closures that fail in every way, and a deployment that calls a model's handle."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle


def faulty(inputs: Iterable[str]) -> list[str]:
    """Answer in capitals, unless a word says what to do instead."""
    words = list(inputs)
    if "raise" in words:
        raise ValueError("no such word")
    if "short" in words:
        return words[:-1]
    if "hang" in words:
        time.sleep(3600)
    if "exit" in words:
        os._exit(1)
    return [word.upper() for word in words]


def mean_colors(images: Any) -> list[list[float]]:
    """Return the mean of each colour of (N, H, W, 3) pixels."""
    return [[round(float(v), 3) for v in image.mean(axis=(0, 1))] for image in images]


@serve.deployment
class Caller:
    """Calls another application's model by its handle."""

    async def sizes(self, images: Sequence[bytes]) -> list[Any]:
        handle: DeploymentHandle = serve.get_app_handle("image-example")
        results: list[Any] = await handle.predict.remote(images)
        return results


def build_caller(_: dict[str, Any]) -> Application:
    return Caller.bind()  # type: ignore[attr-defined,no-any-return]
