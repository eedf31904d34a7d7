"""MLServer's runtimes for the jobs; settings.json and model-settings.json, which
rayserve_app/bench/peer_subjects.py writes, name them.

`predict` is its model API: the Open Inference Protocol, over REST as JSON, so that an image comes
as base64, and an .npy goes as such. A custom handler, as MLServer's own runtimes have some, takes
the body as it comes; in the server's process it is a route of FastAPI: no protocol, no batching, no
worker.
"""

import time
from typing import Any

import numpy as np
from fastapi import Request, Response
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse

from rayserve_app.bench.models import BATCH_S
from rayserve_app.bench.peers import jobs


class Runtime(MLModel):
    """A model of the requests' first tensor: one array, an element for each one of the batch."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        output = NumpyCodec.encode_output("output", np.array(self.compute(payload.inputs[0])))
        return InferenceResponse(model_name=self.name, outputs=[output])

    def compute(self, tensor: Any) -> Any:
        raise NotImplementedError


class ImageSize(Runtime):
    def compute(self, tensor: Any) -> Any:
        return [jobs.image_size(image) for image in Base64Codec.decode_input(tensor)]

    @custom_handler(rest_path="/size")
    async def size(self, request: Request) -> Response:
        width, height = jobs.image_size(await request.body())
        return Response(f"[{width},{height}]", media_type="application/json")


class Sleep(Runtime):
    """50 ms per batch; answers the batch's size."""

    def compute(self, tensor: Any) -> Any:
        inputs = NumpyCodec.decode_input(tensor)
        time.sleep(BATCH_S)  # in a worker of its own, which runs one batch at a time
        return np.full((len(inputs), 1), len(inputs))


class Network(Runtime):
    async def load(self) -> bool:
        self._network = jobs.Network(threads=1)
        return True

    def compute(self, tensor: Any) -> Any:
        return self._network.predict_jpegs(Base64Codec.decode_input(tensor))


class Heads(MLModel):
    async def load(self) -> bool:
        self._heads = jobs.Heads()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (stream,) = Base64Codec.decode_input(payload.inputs[0])
        output = Base64Codec.encode_output("output", [self._heads(stream)])
        return InferenceResponse(model_name=self.name, outputs=[output])


class Colors(Runtime):
    def compute(self, tensor: Any) -> Any:
        return [jobs.corner_color(jpeg) for jpeg in Base64Codec.decode_input(tensor)]


class Texture(Runtime):
    def compute(self, tensor: Any) -> Any:
        return [jobs.texture(jpeg) for jpeg in Base64Codec.decode_input(tensor)]
