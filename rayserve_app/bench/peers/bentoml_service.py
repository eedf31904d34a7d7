"""BentoML's services for the two jobs: `bentoml serve bentoml_service:(ImageSize|Sleep)`.

As https://docs.bentoml.com says for speed: as many workers as cores for what takes a CPU, one for
what stands for a device; adaptive batching with its default latency. Metrics and the access log are
off. The body is taken as it comes by a root input of `bytes`, twice as fast as one of `PIL.Image`;
an `async` method runs without a thread.
"""

import time
from io import BytesIO

import bentoml
from PIL import Image

QUIET = {"metrics": {"enabled": False}, "logging": {"access": {"enabled": False}}}


@bentoml.service(workers="cpu_count", **QUIET)
class ImageSize:
    @bentoml.api
    async def size(self, image: bytes, /) -> list[int]:
        return list(Image.open(BytesIO(image)).size)


@bentoml.service(workers=1, **QUIET)
class Sleep:
    """50 ms per batch; answers the batch's size."""

    @bentoml.api(batchable=True, max_batch_size=32)
    def predict(self, inputs: list[str]) -> list[int]:
        time.sleep(0.05)
        return [len(inputs)] * len(inputs)
