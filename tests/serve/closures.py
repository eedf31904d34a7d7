"""Closures that fail in every way or tell what they got, and a deployment that calls a handle."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
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
    if "sleep" in words:
        time.sleep(2)
    if "exit" in words:
        time.sleep(0.5)  # so that callers wait beside the one who asked for it
        os._exit(1)
    return [word.upper() for word in words]


def mean_colors(images: Any) -> dict[str, Any]:
    """Return the mean of each colour of N images, (N, 3) float64 of 0-255, three decimals."""
    return {"colors": np.array([image.mean(axis=(0, 1)).round(3) for image in images])}


def batch_sizes(inputs: Iterable[str]) -> list[int]:
    """Return for each item how many came with it, itself included."""
    words = list(inputs)
    return [len(words)] * len(words)


def unhurried(inputs: Iterable[str]) -> list[str]:
    """Answer in capitals, after 8 s."""
    time.sleep(8)
    return [word.upper() for word in inputs]


def halves(images: Any) -> dict[str, Any]:
    """Return half of every pixel: 12 bytes for each."""
    return {"halves": images.astype(np.float32) / 2}


@serve.deployment
class Caller:
    """Calls another application's model by its handle."""

    async def sizes(self, images: Sequence[bytes]) -> list[Any]:
        handle: DeploymentHandle = serve.get_app_handle("image-example")
        results: list[Any] = await handle.predict.remote(images)
        return results


def build_caller(_: dict[str, Any]) -> Application:
    return Caller.bind()  # type: ignore[attr-defined,no-any-return]


def humanize_version(inputs: Sequence[str]) -> list[str]:
    """Answer the version of a package that each application has for itself."""
    import humanize  # type: ignore[import-not-found]

    return [humanize.__version__] * len(inputs)
