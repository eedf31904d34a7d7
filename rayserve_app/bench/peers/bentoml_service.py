"""BentoML's services, one for each job: `bentoml serve bentoml_service:ImageSize`.

As https://docs.bentoml.com says for speed: as many workers as cores for what takes a CPU, one for
what stands for a device; adaptive batching with its default latency. Metrics and the access log are
off. The body is taken as it comes by a root input of `bytes`, twice as fast as one of `PIL.Image`;
an `async` method runs without a thread.
"""

import time
from pathlib import Path
from typing import Annotated

import bentoml
import pybase64
from bentoml.validators import ContentType

from rayserve_app.bench.models import BATCH_S
from rayserve_app.bench.peers import jobs

QUIET = {"metrics": {"enabled": False}, "logging": {"access": {"enabled": False}}}
on_all_cores = bentoml.service(workers="cpu_count", **QUIET)
on_one = bentoml.service(workers=1, **QUIET)


@on_all_cores
class ImageSize:
    @bentoml.api
    async def predict(self, image: bytes, /) -> list[int]:
        return list(jobs.image_size(image))

    @bentoml.api
    async def base64(self, image: str) -> list[int]:
        return list(jobs.image_size(pybase64.b64decode(image, validate=True)))


@on_one
class Sleep:
    """50 ms per batch; answers the batch's size."""

    @bentoml.api(batchable=True, max_batch_size=32)
    def predict(self, inputs: list[str]) -> list[int]:
        time.sleep(BATCH_S)
        return [len(inputs)] * len(inputs)


@on_all_cores
class Network:
    def __init__(self) -> None:
        self._network = jobs.Network(threads=1)

    @bentoml.api(batchable=True, max_batch_size=8)
    def predict(self, images: list[Path]) -> list[list[float]]:
        jpegs = [path.read_bytes() for path in images]
        answers: list[list[float]] = self._network.predict_jpegs(jpegs).tolist()
        return answers


@on_all_cores
class Heads:
    def __init__(self) -> None:
        self._heads = jobs.Heads()

    @bentoml.api
    def predict(self, stream: bytes, /) -> Annotated[bytes, ContentType("application/x-npy")]:
        return self._heads(stream)


@on_all_cores
class Colors:
    @bentoml.api
    def predict(self, jpeg: bytes, /) -> list[int]:
        return jobs.corner_color(jpeg)


@on_one
class Texture:
    # No root input: to one of bytes a service answers JSON, and its caller expects a pickle.
    @bentoml.api
    def predict(self, jpeg: bytes) -> list[float]:
        return jobs.texture(jpeg)


@on_one
class Neighbours:
    """The fast model, and the way to the slow one, which is a service with a worker of its own."""

    texture = bentoml.depends(Texture)

    @bentoml.api
    async def fast(self, image: bytes, /) -> list[int]:
        return list(jobs.image_size(image))

    @bentoml.api
    async def slow(self, jpeg: bytes, /) -> list[float]:
        energies: list[float] = await self.texture.to_async.predict(jpeg=jpeg)
        return energies
